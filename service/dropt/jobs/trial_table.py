"""Trials as a table: one line each, settings and rates in columns of their own."""

import csv
import io
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime

from dropt.spec.protocol import TrialParams
from dropt.spec.results import TrialPhase, TrialState
from dropt.storage import jobs, trials
from dropt.storage.jobs import JobRow
from dropt.storage.trials import TrialRow
from dropt.tuning.service import Service

BATCH = 500  # trials read at a time
PLAIN = (
    "id", "arm", "phase", "number", "state", "attempt", "seed", "value", "epochs", "epoch",
    "best_epoch", "reason", "seconds", "created_at", "finished_at",
)  # fmt: skip
PARAMS = tuple(TrialParams.model_fields)


def csv_lines(
    service: Service,
    job_id: str,
    *,
    project: str,
    arm: str | None = None,
    phase: TrialPhase | None = None,
    states: Collection[TrialState] = (),
) -> Iterator[str]:
    """A header, then every trial that fits, by number.

    The columns are those of a trial, then its settings, then `rate:<site>` for each site that the
    job may drop at. Times are UTC.

    Raises:
        NotFound: no such job, before the first line.
    """
    with service.database.reading() as session:
        job = jobs.get(session, job_id, project=project)
    sites = _sites(job)
    return _lines(service, job, sites, arm=arm, phase=phase, states=states)


def _lines(
    service: Service,
    job: JobRow,
    sites: Sequence[str],
    *,
    arm: str | None,
    phase: TrialPhase | None,
    states: Collection[TrialState],
) -> Iterator[str]:
    yield _line((*PLAIN, *PARAMS, *(f"rate:{site}" for site in sites)))
    after: tuple[float | None, str] | None = None
    while True:
        with service.database.reading() as session:
            rows = trials.list_page(
                session, job.id, project=job.project, limit=BATCH, after=after, arm=arm,
                phase=phase, states=states,
            )  # fmt: skip
        for row in rows:
            yield _line(_cells(row, sites))
        if len(rows) < BATCH:
            return
        after = (rows[-1].number, rows[-1].id)


def _sites(job: JobRow) -> list[str]:
    if job.space is None:
        return []
    return [site for group in job.space.groups for site in group.sites]


def _cells(row: TrialRow, sites: Sequence[str]) -> Iterator[object]:
    for name in PLAIN:
        value = getattr(row, name)
        is_time = isinstance(value, datetime)
        yield value.isoformat(timespec="milliseconds") if is_time else value
    for name in PARAMS:
        yield getattr(row.params, name)
    for site in sites:
        yield row.sites[site].rate if site in row.sites else 0.0


def _line(cells: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()
