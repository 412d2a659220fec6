"""The screening of a job in the words of the answer, read from its trials."""

from math import isfinite

from dropt.spec.screening import ScreenedGroup, ScreeningRead, SearchedGroup
from dropt.spec.space import Space
from dropt.storage import measurements, trials
from dropt.storage.jobs import JobRow
from dropt.storage.session import Session
from dropt.tuning.pruning import rung_epochs
from dropt.tuning.sampling import Known
from dropt.tuning.screened import concluded, screening_rung
from dropt.tuning.screening import Screened

ARM = "with"


def screening_of(session: Session, job: JobRow) -> ScreeningRead | None:
    """What the screening of a job has found; None without one, or before its end."""
    if job.space is None or job.space.screening is None:
        return None
    search = job.spec.search
    rung = screening_rung(rung_epochs(search.pruner, job.spec.training.epochs))
    rows = trials.list_of(session, job.id, project=job.project, arm=ARM, phase="search")
    values = {} if rung is None else dict(
        measurements.rung_values(session, job.id, ARM, rung, project=job.project)
    )  # fmt: skip
    found = concluded(
        job.space,
        search,
        ARM,
        {row.number: Known.of(row, {rung or 0: values.get(row.id)}) for row in rows},
        rung=rung,
        direction=job.spec.objective.direction,
    )
    return None if found is None else screening_read(job.space, found)


def screening_read(space: Space, found: Screened) -> ScreeningRead:
    """What a screening of this space has found."""
    assert space.screening is not None  # else nothing can be found
    sites = {group.group: group.sites for group in space.groups}
    return ScreeningRead(
        trials=space.screening.n_trials,
        runs=space.screening.n_runs,
        seeds=space.screening.n_seeds,
        scale=found.scale,
        units=tuple(
            ScreenedGroup(
                groups=unit.groups,
                sites=tuple(site for name in unit.groups for site in sites[name]),
                benefit=unit.benefit,
                standard_error=unit.se if isfinite(unit.se) else None,
                decision=unit.decision,
                reason=unit.reason,
            )
            for unit in found.units
        ),
        searched=tuple(SearchedGroup(group=g.group, sites=g.sites) for g in found.groups),
    )
