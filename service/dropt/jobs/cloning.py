"""A new job from one that is there: its body again, with what differs merged in."""

from collections.abc import Mapping
from typing import Any

from dropt.errors import FieldError, InvalidRequest
from dropt.jobs.submission import ACCURACY_MIN_EFFECT
from dropt.spec.job import LOSS_OF, METRICS_OF, JobSpec
from dropt.storage import jobs, trials
from dropt.storage.jobs import JobRow
from dropt.storage.session import Session
from dropt.tuning.comparison import PRIMARY
from dropt.tuning.service import Service

N_WARM = 5  # placements of the origin that are tried first
MAX_START_FROM = 100


def body_of_clone(
    service: Service,
    job_id: str,
    changes: Mapping[str, Any],
    *,
    project: str,
    warm_start: bool = False,
) -> tuple[dict[str, Any], JobRow]:
    """The body that makes the clone, yet to be validated, and the job that is cloned.

    With `warm_start` the placements of its best trials come first among `search.start_from`.

    Raises:
        InvalidRequest: a warm start for another model.
        NotFound: no such job.
    """
    with service.database.reading() as session:
        origin = jobs.get(session, job_id, project=project)
        body = merged(body_of(origin), changes)
        if warm_start:
            if "model" in changes:
                message = "Another model has other sites; leave model or warm_start out."
                raise InvalidRequest.of(FieldError("/warm_start", "out-of-range", message, "true"))
            _start_from(body, _best_placements(session, origin))
    return body, origin


def body_of(job: JobRow) -> dict[str, Any]:
    """The body that a job was submitted with; what was chosen for it stays to be chosen."""
    spec = job.spec
    body = spec.model_dump(
        mode="json", by_alias=True, exclude={"schema_", "dataset_sha256", "task", "objective"}
    )
    del body["training"]["metrics"]
    if spec.training.loss == LOSS_OF[spec.task]:
        del body["training"]["loss"]
    return body | {
        "name": job.name, "labels": dict(job.labels), "priority": job.priority,
        "objective": _objective(spec),
    }  # fmt: skip


def merged(value: Any, changes: Any) -> Any:
    """JSON merge patch (RFC 7396)."""
    if not isinstance(changes, Mapping):
        return changes
    found = dict(value) if isinstance(value, Mapping) else {}
    for name, change in changes.items():
        if change is None:
            found.pop(name, None)
        else:
            found[name] = merged(found.get(name), change)
    return found


def _objective(spec: JobSpec) -> dict[str, Any]:
    objective, chosen = spec.objective, {}
    if objective.metric != METRICS_OF[spec.task][0]:
        chosen["metric"] = objective.metric
    is_default = objective.metric == "accuracy" and objective.min_effect == ACCURACY_MIN_EFFECT
    if objective.min_effect is not None and not is_default:
        chosen["min_effect"] = objective.min_effect  # type: ignore[assignment]  # JSON values
    return chosen


def _start_from(body: dict[str, Any], placements: list[dict[str, float]]) -> None:
    search = body.get("search")
    if not isinstance(search, dict):
        return  # its own error is told when the body is validated
    named = search.get("start_from", [])
    fresh = [placement for placement in placements if placement not in named]
    search["start_from"] = [*fresh, *named][:MAX_START_FROM]


def _best_placements(session: Session, job: JobRow) -> list[dict[str, float]]:
    """The distinct placements of the best trials of `with`, best first."""
    rows = trials.list_page(
        session, job.id, project=job.project, limit=4 * N_WARM, order_by="value",
        descending=job.spec.objective.direction == "maximize", arm=PRIMARY, phase="search",
        states=["completed"],
    )  # fmt: skip
    found: list[dict[str, float]] = []
    for row in rows:
        placement = {site: dropout.rate for site, dropout in row.sites.items()}
        if placement and placement not in found:
            found.append(placement)
    return found[:N_WARM]
