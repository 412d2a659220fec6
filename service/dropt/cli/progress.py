"""Live progress of one job: bars on a terminal, a few plain lines in a pipe."""

import sys
import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dropt.cli import figures
from dropt.spec.results import ArmProgress, EvidenceProgress, JobRead

FRAMES_PER_S = 4.0
PLAIN_WIDTH = 100  # columns of a pipe, where nobody can be asked
BAR_WIDTH, WIDE_BAR = 12, 24
LABEL_WIDTH = 12
PHASES = ("preparing", "search", "evidence", "reporting")
STEPS = 10  # lines of a whole run in a pipe


class Progress(Protocol):
    """Where a run says how far it is."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...  # fmt: skip
    def wait_for(self, what: str) -> None: ...
    def show(self, job: JobRead) -> None: ...


def make_console() -> Console:
    """Standard output: colours on a terminal, unless NO_COLOR is set, and a fixed width else."""
    terminal = sys.stdout.isatty()
    return Console(highlight=False, width=None if terminal else PLAIN_WIDTH)


def make_progress(console: Console) -> Progress:
    """Bars where they can be redrawn, else lines."""
    return Bars(console) if console.is_terminal else PlainLines(console)


class PlainLines:
    """At most one line for each tenth of the job, without control characters."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tenth = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        pass

    def wait_for(self, what: str) -> None:
        """Say once, before there is a job, what the run waits for."""
        self._console.print(Text(f"{'preparing':<{LABEL_WIDTH}}{what}"), soft_wrap=True)

    def show(self, job: JobRead) -> None:
        tenth = int(job.progress.fraction * STEPS + 1e-9)
        if tenth <= self._tenth:
            return
        self._tenth = tenth
        label = f"{100 * tenth // STEPS:>3} %  {job.phase or job.state}"
        self._console.print(Text(f"{label:<18}{_in_words(job)}".rstrip()), soft_wrap=True)


class Bars:
    """Bars that are redrawn in place, with the seconds since the start."""

    def __init__(self, console: Console) -> None:
        self._job: JobRead | None = None
        self._waits_for = "starting"
        self._started_at = time.monotonic()
        self._live = Live(
            console=console, refresh_per_second=FRAMES_PER_S, get_renderable=self._render,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._live.stop()

    def wait_for(self, what: str) -> None:
        self._waits_for = what

    def show(self, job: JobRead) -> None:
        self._job = job

    def _render(self) -> RenderableType:
        seconds = Text(f"{time.monotonic() - self._started_at:.0f} s", style="dim")
        if self._job is None:
            return _row("preparing", Text(self._waits_for), seconds)
        job = self._job
        rows = [_row("preparing", Text(_preparation(job)))]
        if _has_reached(job, "search"):
            rows.append(_row("search", *(_arm_bar(job, arm) for arm in in_order(job))))
        if _has_reached(job, "evidence"):
            rows.append(_row("evidence", _evidence_bar(job.progress.evidence)))
        return Group(*rows, seconds) if not job.done else Group(*rows)


def _row(label: str, *cells: RenderableType) -> Table:
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(width=LABEL_WIDTH - 3)
    for _ in cells:
        grid.add_column()
    grid.add_row(label, *cells)
    return grid


def _has_reached(job: JobRead, phase: str) -> bool:
    """Whether the job is or was in this phase; one that ended early shows what it began."""
    if job.phase is not None:
        return PHASES.index(job.phase) >= PHASES.index(phase)
    evidence = job.progress.evidence
    began = {
        "search": any(_ended(arm) for arm in job.progress.arms),
        "evidence": evidence.seeds_done + evidence.shortlist_done > 0,
    }
    return began[phase]


def _preparation(job: JobRead) -> str:
    if _has_reached(job, "search"):
        return "the model is inspected"
    return job.reason or "a worker looks at the model and the data"


def _arm_bar(job: JobRead, arm: ArmProgress) -> RenderableType:
    ended = _ended(arm)
    grid = Table.grid(padding=(0, 1, 0, 0))
    bar = ProgressBar(total=max(arm.target, 1), completed=ended, width=BAR_WIDTH)
    best = figures.score(job.spec.objective.metric, arm.best_value)
    grid.add_row(arm.arm, bar, f"{ended}/{arm.target}", best)
    return grid


def _evidence_bar(evidence: EvidenceProgress) -> RenderableType:
    done, target, what = _evidence_numbers(evidence)
    grid = Table.grid(padding=(0, 1, 0, 0))
    bar = ProgressBar(total=max(target, 1), completed=min(done, target), width=WIDE_BAR)
    grid.add_row(bar, f"{done}/{target}", what)
    return grid


def _in_words(job: JobRead) -> str:
    if job.phase == "search":
        metric = job.spec.objective.metric
        arms = (
            f"{arm.arm} {_ended(arm)}/{arm.target}"
            + (f" ({figures.score(metric, arm.best_value)})" if arm.best_value is not None else "")
            for arm in in_order(job)
        )
        return "  ".join(arms)
    if job.phase in {"evidence", "reporting"}:
        done, target, what = _evidence_numbers(job.progress.evidence)
        return f"{done}/{target} {what}"
    return job.reason or ""


def in_order(job: JobRead) -> list[ArmProgress]:
    """The arms in the order in which the job names them."""
    return sorted(job.progress.arms, key=lambda arm: job.spec.compare.arms.index(arm.arm))


def _ended(arm: ArmProgress) -> int:
    return arm.complete + arm.pruned + arm.failed


def _evidence_numbers(evidence: EvidenceProgress) -> tuple[int, int, str]:
    """Done, target and what is counted: the shortlist, then the removals, then the seeds."""
    if evidence.seeds_done == 0:
        if evidence.simplify_done == 0 and evidence.shortlist_done < evidence.shortlist_target:
            return evidence.shortlist_done, evidence.shortlist_target, "trainings of the shortlist"
        if evidence.simplify_done < evidence.simplify_target:
            return evidence.simplify_done, evidence.simplify_target, "trainings to take sites out"
    return evidence.seeds_done, evidence.seeds_cap, "paired seeds on the test split"
