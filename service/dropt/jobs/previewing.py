"""A job as it would be: its spec, its space, its first trials and its cost; nothing is stored."""

from dropt.jobs.looking import failure_of, look, waits_for
from dropt.jobs.submission import resolve_known, warnings_of
from dropt.spec.job import JobCreate, JobSpec
from dropt.spec.preview import ArmPreview, FirstTrial, LookState, PreviewRead
from dropt.spec.space import Space
from dropt.storage import datasets, workers
from dropt.storage.inspections import InspectionRow
from dropt.tuning.estimating import estimate
from dropt.tuning.first_trials import first_trials, opening_trials
from dropt.tuning.issuing import SEARCHED
from dropt.tuning.phases import space_of
from dropt.tuning.points import is_with_dropout
from dropt.tuning.service import Service

N_FIRST = 10  # first trials shown of each arm


def preview(service: Service, body: JobCreate, *, project: str) -> PreviewRead:
    """What a job would be; a worker is asked to look at the model if none has so far.

    Raises:
        InvalidRequest: what submitting it would raise, and what would fail it when it starts: a
            model that fails on the data, a choice of sites that matches nothing.
    """
    with service.database.reading() as session:
        spec = resolve_known(session, body, project=project)
        offer = datasets.get(session, spec.dataset.name, project=project).offer
        model = workers.offers(session, project=project).models.get(spec.model.name)
    row = look(service, spec, project=project)
    if row.failure is not None:
        raise failure_of(row.failure, pointer="/model")
    found = row.result
    space = None if found is None else space_of(found, spec)
    n_workers = 0 if model is None else model.n_workers
    findings = () if found is None else found.findings
    return PreviewRead(
        state=_state(row),
        reason=waits_for(service, row, spec, project=project) if found is None else None,
        spec=spec,
        sites=None if found is None else found.sites,
        findings=None if found is None else findings,
        space=space,
        arms=tuple(_arm(arm, spec, space) for arm in spec.compare.arms),
        estimate=estimate(spec, offer, found=found, space=space, n_workers=n_workers),
        warnings=(
            *warnings_of(offer, spec), *(f"{one.code}: {one.message}" for one in findings),
        ),
    )  # fmt: skip


def _state(row: InspectionRow) -> LookState:
    if row.state == "done":
        return "done"
    return "running" if row.state == "running" else "waiting"


def _arm(arm: str, spec: JobSpec, space: Space | None) -> ArmPreview:
    is_searched = arm in SEARCHED
    return ArmPreview(
        arm=arm,
        searched=is_searched,
        trials=spec.budget.trials if is_searched else 0,
        first=() if space is None or not is_searched else _first(arm, spec, space),
    )


def _first(arm: str, spec: JobSpec, space: Space) -> tuple[FirstTrial, ...]:
    """The trials that are queued before a sampler or a screening proposes any."""
    n_shown = min(N_FIRST, spec.budget.trials)
    if space.screening is not None and is_with_dropout(arm):
        points = opening_trials(space, spec.search)[:n_shown]
    else:
        points = first_trials(space, spec.search, arm, target=n_shown)
    return tuple(FirstTrial(params=point.params, sites=point.sites) for point in points)
