"""New search trials: asked from the samplers, issued against the budget, stored as waiting."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

from dropt.spec.job import Arm
from dropt.storage import arms, events, jobs, trials
from dropt.storage.arms import ArmRow
from dropt.storage.jobs import JobRow
from dropt.storage.session import Session
from dropt.storage.trials import NewTrial
from dropt.tuning.sampling import Proposal
from dropt.tuning.screened import ScreenedMemory, screened_numbers
from dropt.tuning.screening_reading import screening_read
from dropt.tuning.seeds import search_index, trial_seed
from dropt.tuning.service import Service

logger = logging.getLogger(__name__)

MAX_OPEN = 16  # per arm: TPE that lies about 16 running trials is nearly as good as one by one
SEARCHED: tuple[Arm, ...] = ("without", "with")
NONE_END: Mapping[str, int] = {}
Proposals = Mapping[str, Sequence[Proposal]]  # by arm, in the order of their numbers


def ensure_waiting(
    service: Service, job: JobRow, wanted: int, *, ending: Mapping[str, int] = NONE_END
) -> None:
    """Issue trials until `wanted` of them wait, as far as budgets and open trials allow.

    `ending` says how many running trials of each arm end with the report that asks for more.
    The arm with the fewest issued trials comes first, so that both go on evenly. Proposals are
    drawn before the transaction: drawing takes longer than a writer may hold the database.
    """
    with service.job_lock(job.id):
        proposals = propose(service, job, wanted, ending=ending)
        if proposals and not _store(service, job, proposals):
            service.forget(job.id)


def propose(
    service: Service, job: JobRow, wanted: int, *, ending: Mapping[str, int] = NONE_END
) -> Proposals:
    """What `ensure_waiting` would issue; the caller holds the lock of the job until it is."""
    if wanted <= 0:
        return {}
    return {
        arm: [service.memory(job, arm).ask(number) for number in found]
        for arm, found in _numbers_to_issue(service, job, wanted, ending).items()
    }


def issue(session: Session, service: Service, job: JobRow, proposals: Proposals) -> bool:
    """Take trials out of the budgets and store them as waiting; False when the job has moved on.

    `job` was read under its lock in this transaction. After False the memory is to be forgotten:
    it holds proposals that the tables will not have.
    """
    if (job.state, job.phase) != ("running", "search"):
        return False
    rows = {row.arm: row for row in arms.list_of(session, job.id, project=job.project)}
    if any(not _fits(rows[arm], asked) for arm, asked in proposals.items()):
        return False  # another service was first; its trials are learnt when rebuilt
    for arm, asked in proposals.items():
        arms.issue(session, job.id, arm, len(asked), project=job.project)
    new = [_new_trial(job, arm, one) for arm, asked in proposals.items() for one in asked]
    trials.insert_many(session, new, project=job.project)
    for arm, asked in proposals.items():
        _record_screening(session, service, job, arm, asked)
        logger.debug("study.asked", extra={"job": job.id, "arm": arm})
    logger.debug("arm.issued", extra={"job": job.id, "trials": len(new)})
    return True


def _fits(row: ArmRow, asked: Sequence[Proposal]) -> bool:
    """Whether the next numbers of the arm are those asked for, within its budget."""
    return row.issued == asked[0].number and row.issued + len(asked) <= row.target


def _numbers_to_issue(
    service: Service, job: JobRow, wanted: int, ending: Mapping[str, int]
) -> dict[str, list[int]]:
    """The numbers of the next trials, by arm."""
    with service.database.reading() as session:
        rows = arms.list_of(session, job.id, project=job.project)
        counts = trials.count_open(session, job.id, project=job.project)
    n_open: Counter[str] = Counter({arm: -n for arm, n in ending.items()})
    n_waiting = 0
    for (arm, state), n in counts.items():
        n_open[arm] += n
        n_waiting += n if state == "waiting" else 0
    issued = {row.arm: row.issued for row in rows if row.searched}
    found: dict[str, list[int]] = {}
    for _ in range(wanted - n_waiting):
        free = [
            row
            for row in rows
            if _has_room(row, issued, n_open) and _is_ready(service, job, row.arm, issued[row.arm])
        ]
        if not free:
            break
        arm = min(free, key=lambda row: issued[row.arm]).arm
        found.setdefault(arm, []).append(issued[arm])
        issued[arm] += 1
        n_open[arm] += 1
    return found


def _has_room(row: ArmRow, issued: dict[str, int], n_open: Counter[str]) -> bool:
    return row.searched and issued[row.arm] < row.target and n_open[row.arm] < MAX_OPEN


def _is_ready(service: Service, job: JobRow, arm: str, number: int) -> bool:
    """Whether a trial can be configured now; one that needs what a screening finds waits."""
    return service.memory(job, arm).is_ready(number)


def _store(service: Service, job: JobRow, proposals: Proposals) -> bool:
    with service.database.writing() as session:
        return issue(session, service, jobs.lock(session, job.id, project=job.project), proposals)


def _record_screening(
    session: Session, service: Service, job: JobRow, arm: str, asked: Sequence[Proposal]
) -> None:
    """Tell what a screening has found, with the first trial that makes use of it."""
    assert job.space is not None  # a job that searches has one
    after = screened_numbers(job.space, job.spec.search, arm).stop
    memory = service.memory(job, arm)
    if not isinstance(memory, ScreenedMemory) or all(one.number != after for one in asked):
        return
    found = memory.found
    assert found is not None  # else no trial after it is ready
    events.record(
        session, job.id, "search.screened", project=job.project, arm=arm,
        **screening_read(job.space, found).model_dump(),
    )  # fmt: skip


def _new_trial(job: JobRow, arm: str, proposal: Proposal) -> NewTrial:
    index = proposal.seed_index or search_index(arm, proposal.number)
    return NewTrial(
        job_id=job.id,
        arm=arm,
        phase="search",
        number=proposal.number,
        seed_index=index,
        seed=trial_seed(job.spec.search.seed, "search", index),
        epochs=job.spec.training.epochs,
        params=proposal.point.params,
        rates=proposal.point.rates,
        sites=proposal.point.sites,
    )
