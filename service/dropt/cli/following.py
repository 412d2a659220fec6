"""Follow one job to its end, and say at any moment what it has found."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from rich.console import Console
from rich.text import Text

from dropt.cli import figures
from dropt.cli.answer import NextStep, print_answer
from dropt.cli.problems import ExitCode
from dropt.cli.progress import Progress, in_order
from dropt.client import Client
from dropt.errors import DroptError, Internal, NoResultYet
from dropt.spec.results import BestRead, JobRead, VerdictRead

POLL_S = 0.4
LAST_WORDS_S = 2.0  # a service that does not answer any more may be about to say why
TOLERANCE_S = 30.0  # without an answer


def follow(
    client: Client, job_id: str, progress: Progress, check: Callable[[float], None]
) -> JobRead:
    """Show the job until it is done.

    `check` raises what has ended the service: within 0 s at each turn, and with some patience when
    the service does not answer.
    """
    while True:
        job = _ask(client, job_id, check)
        progress.show(job)
        if job.done:
            return job
        check(0.0)
        time.sleep(POLL_S)


def _ask(client: Client, job_id: str, check: Callable[[float], None]) -> JobRead:
    """The job; a service that is busy or restarts is asked again for a while."""
    give_up_at = time.monotonic() + TOLERANCE_S
    while True:
        try:
            return client.get_job(job_id)
        except DroptError as error:
            check(LAST_WORDS_S)
            if error.status < Internal.status or time.monotonic() > give_up_at:
                raise
        time.sleep(POLL_S)


def print_end(
    console: Console, client: Client, job: JobRead, steps: Sequence[NextStep]
) -> ExitCode:
    """The answer of a job that has ended, or why there is none; the status that belongs to it."""
    if job.state == "failed":
        why = job.failure.message if job.failure is not None else job.reason or "no reason known"
        console.print(Text(f"\nThe job failed: {why}", style="bold red"), soft_wrap=True)
        return ExitCode.JOB_FAILED
    if job.state == "cancelled":
        console.print(Text("\nThe job was cancelled."))
    verdict, best = answer_of(client, job.id)
    print_answer(console, verdict, best, steps)
    return ExitCode.OK


def answer_of(client: Client, job_id: str) -> tuple[VerdictRead | None, BestRead | None]:
    """The verdict and the configuration to use, as far as there are any."""
    verdict, best = None, None
    with suppress(NoResultYet):
        best = client.get_best(job_id)
        verdict = client.get_verdict(job_id)
    return verdict, best


def print_so_far(console: Console, client: Client, job_id: str, goes_on: str) -> None:
    """What is known of a job that is left: the best of each arm, and how it goes on."""
    console.print()
    with suppress(DroptError):  # without an answer, how it goes on still matters
        job = client.get_job(job_id)
        console.print(Text(f"Stopped at {100 * job.progress.fraction:.0f} % of {job.id}."))
        for line in _best_lines(job):
            console.print(Text(f"  {line}"), soft_wrap=True)
    console.print(Text(goes_on), soft_wrap=True)


def _best_lines(job: JobRead) -> Iterator[str]:
    metric = job.spec.objective.metric
    for arm in in_order(job):
        if arm.best_value is not None:
            best = figures.score(metric, arm.best_value)
            yield f"best {arm.arm}: {best} validation {figures.METRIC_NAMES[metric]}"
