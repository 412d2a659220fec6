"""Follow one job to its end, and say at any moment what it has found."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from rich.console import Console
from rich.text import Text

from dropt.cli import figures
from dropt.cli.answer import NextStep, print_answer
from dropt.cli.problems import ExitCode
from dropt.cli.progress import Progress, in_order
from dropt.client import Client
from dropt.errors import NoResultYet
from dropt.spec.results import BestRead, JobRead, VerdictRead

POLL_S = 0.4


def follow(client: Client, job_id: str, progress: Progress, check: Callable[[], None]) -> JobRead:
    """Show the job until it is done; `check` is called at each turn and may raise."""
    while True:
        job = client.get_job(job_id)
        progress.show(job)
        if job.done:
            return job
        check()
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
    job = client.get_job(job_id)
    metric = job.spec.objective.metric
    console.print(Text(f"\nStopped at {100 * job.progress.fraction:.0f} % of {job.id}."))
    for arm in in_order(job):
        if arm.best_value is not None:
            best = figures.score(metric, arm.best_value)
            name = figures.METRIC_NAMES[metric]
            console.print(Text(f"  best {arm.arm}: {best} validation {name}"), soft_wrap=True)
    console.print(Text(goes_on), soft_wrap=True)
