"""The report of a job and the start page: gathered from the tables in one reading."""

from dataclasses import dataclass

from pydantic import JsonValue

from dropt.errors import NoResultYet, NotFound
from dropt.jobs.answers import best_of, indistinguishable_of, verdict_of
from dropt.jobs.configs import own_kinds, placement_of
from dropt.jobs.reading import job_read, job_summary
from dropt.report.building import Material, build
from dropt.report.placement import WITH
from dropt.report.start import JobCard, StartPage
from dropt.spec.protocol import SplitName
from dropt.spec.report import Machine, Report, UseIt
from dropt.spec.results import BestRead, VerdictRead
from dropt.spec.snippet import plain_pytorch
from dropt.storage import datasets, inspections, jobs, measurements, trials, workers
from dropt.storage.jobs import JobRow
from dropt.storage.session import Session
from dropt.storage.trials import TrialRow
from dropt.tuning.service import Service

N_CARDS = 50  # jobs on the start page
SECRETLESS = {"schema_", "dataset_sha256", "task"}  # what the service adds to a job


@dataclass(frozen=True)
class Stamp:
    """What a report depends on: as long as it is the same, so is the report."""

    job: str
    revision: int
    trials: tuple[tuple[str, int], ...]
    is_final: bool


def stamp(service: Service, job_id: str, *, project: str) -> Stamp:
    """The stamp of a job's report. Raises NotFound."""
    with service.database.reading() as session:
        job = jobs.get(session, job_id, project=project)
        counts = trials.counts(session, job_id, project=project)
    by_kind = sorted(("/".join(kind), n) for kind, n in counts.items())
    return Stamp(job.id, job.revision, tuple(by_kind), job.is_done)


def report(service: Service, job_id: str, *, project: str) -> Report:
    """Everything that the report page of a job shows. Raises NotFound."""
    with service.database.reading() as session:
        material = _gathered(session, jobs.get(session, job_id, project=project))
    return build(material)


def start_page(service: Service, *, project: str) -> StartPage:
    """The newest jobs with their verdicts, and whether anybody works."""
    with service.database.reading() as session:
        rows = jobs.list_page(session, project=project, limit=N_CARDS)
        live = [
            one for one in workers.list_page(session, project=project, limit=N_CARDS)
            if one.state == "live"
        ]  # fmt: skip
        return StartPage(
            jobs=tuple(_card(session, row) for row in rows),
            workers=tuple(one.name for one in live),
        )


def _card(session: Session, job: JobRow) -> JobCard:
    verdict, best = _verdict(job), _best(session, job)
    used = measurements.consumed(session, job.id, project=job.project).values()
    kept = searched = None
    if best is not None:
        found = next(
            (one for one in (best.recommended, *best.alternatives) if one.arm == WITH), None
        )
        if found is not None:
            kept = sum(site.rate > 0 for site in found.sites)
            searched = len(found.sites)
    return JobCard(
        job=job_summary(session, job),
        metric=job.spec.objective.metric,
        summary=verdict.summary if verdict is not None else None,
        provisional=verdict is not None and verdict.provisional,
        sites_kept=kept,
        sites_searched=searched,
        device_seconds=round(sum(one.device_seconds for one in used), 3),
    )


def _gathered(session: Session, job: JobRow) -> Material:
    of = job.project
    rows = trials.list_of(session, job.id, project=of)
    best = _best(session, job)
    compared = [row for row in rows if row.phase == "compare"]
    found = inspections.get(session, job.inspection_id, project=of) if job.inspection_id else None
    probe = found.result.probe if found is not None and found.result is not None else None
    return Material(
        row=job,
        job=job_read(session, job),
        verdict=_verdict(job),
        best=best,
        ties=indistinguishable_of(session, job, WITH) if best is not None else (),
        trials=rows,
        points={row.id: measurements.curve(session, row.id, project=of) for row in compared},
        used=measurements.consumed(session, job.id, project=of),
        lane=f"{probe.lane}: {probe.why}" if probe is not None else None,
        machines=_machines(session, compared or rows, of),
        rows=_rows(session, job),
        body=body_of(job),
        use=_use(job, best),
    )


def _rows(session: Session, job: JobRow) -> dict[SplitName, int]:
    """Rows by split; empty when the data set was deleted after the job, or stands for others."""
    try:
        found = datasets.get(session, job.spec.dataset.name, project=job.project)
    except NotFound:
        return {}
    return found.offer.split_rows if found.sha256 == job.spec.dataset_sha256 else {}


def _verdict(job: JobRow) -> VerdictRead | None:
    try:
        return verdict_of(job)
    except NoResultYet:
        return None


def _best(session: Session, job: JobRow) -> BestRead | None:
    try:
        return best_of(session, job, top=0)
    except NoResultYet:
        return None


def body_of(job: JobRow) -> dict[str, JsonValue]:
    """The body that submits the same job again, with nothing left to defaults."""
    spec = job.spec.model_dump(mode="json", by_alias=True, exclude=SECRETLESS)
    del spec["training"]["metrics"]  # follow from the task
    return {"name": job.name, "labels": job.labels, "priority": job.priority, **spec}


def _use(job: JobRow, best: BestRead | None) -> UseIt | None:
    if best is None or job.space is None:
        return None
    placement = placement_of(best.recommended, job.space, job.id)
    return UseIt(
        arm=best.recommended.arm,
        placement=placement,
        python=plain_pytorch(placement, own_kinds=own_kinds(job.space.sites)),
        apply=f"dropt show {job.id} --as json > dropout.json",
    )


def _machines(session: Session, rows: list[TrialRow], project: str) -> tuple[Machine, ...]:
    """The workers that trained these trials, each once."""
    names = sorted({row.worker_id for row in rows if row.worker_id is not None})
    found = [workers.get(session, name, project=project) for name in names]
    return tuple(
        Machine(
            worker=one.name,
            device=one.registration.device.name,
            versions=one.registration.versions,
        )
        for one in found
    )
