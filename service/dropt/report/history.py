"""The search trial by trial, and what the job has used."""

from collections import Counter
from collections.abc import Mapping, Sequence

from dropt.spec.report import History, SearchDot, SearchedArm, Spending
from dropt.spec.results import FINAL_TRIAL_STATES
from dropt.storage.jobs import JobRow
from dropt.storage.measurements import Consumption
from dropt.storage.trials import TrialRow

MOST_DOTS = 500


def history_of(job: JobRow, rows: Sequence[TrialRow], targets: Mapping[str, int]) -> History:
    """The search trials in the order in which they were made; `targets` by searched arm."""
    searched = sorted(
        (row for row in rows if row.phase == "search"), key=lambda row: (row.created_at, row.id)
    )
    dots = [
        SearchDot(trial=row.id, arm=row.arm, order=order, state=row.state, value=row.value)
        for order, row in enumerate(searched, start=1)
    ]
    descending = job.spec.objective.direction == "maximize"
    return History(
        dots=_thinned(dots),
        trials=len(dots),
        arms=tuple(
            SearchedArm(
                arm=arm,
                target=target,
                trials=dict(Counter(dot.state for dot in dots if dot.arm == arm)),
                best_so_far=_best_so_far([d for d in dots if d.arm == arm], descending=descending),
            )
            for arm, target in targets.items()
        ),
    )


def spending_of(
    job: JobRow, rows: Sequence[TrialRow], used: Mapping[tuple[str, str], Consumption],
    *, lane: str | None,
) -> Spending:  # fmt: skip
    """Epochs, seconds and failures, of all phases."""
    device_s: dict[str, float] = {}
    for (_, phase), one in used.items():
        device_s[phase] = device_s.get(phase, 0.0) + one.device_seconds
    pruned = [row for row in rows if row.state == "pruned"]
    epochs = sum(one.n_epochs for one in used.values())
    return Spending(
        epochs=epochs,
        epochs_unpruned=epochs + sum(row.epochs - row.epoch for row in pruned),
        pruned=len(pruned),
        wall_seconds=_wall_s(job),
        device_seconds={phase: round(seconds, 3) for phase, seconds in device_s.items()},
        trials_per_second=_trials_per_s(job, rows),
        slots=job.space.slots if job.space is not None else None,
        lane=lane,
        failures=dict(Counter(row.reason or "unknown" for row in rows if row.state == "failed")),
    )


def _thinned(dots: Sequence[SearchDot]) -> tuple[SearchDot, ...]:
    """At most `MOST_DOTS`: of the pruned ones every k-th, if need be of the others too."""
    kept = [dot for dot in dots if dot.state != "pruned"]
    pruned = [dot for dot in dots if dot.state == "pruned"]
    kept = _every(kept, MOST_DOTS)
    pruned = _every(pruned, MOST_DOTS - len(kept))
    return tuple(sorted([*kept, *pruned], key=lambda dot: dot.order))


def _every(dots: list[SearchDot], most: int) -> list[SearchDot]:
    """At most this many, evenly spread."""
    if len(dots) <= most:
        return dots
    return [dots[i * len(dots) // most] for i in range(most)]


def _best_so_far(dots: Sequence[SearchDot], *, descending: bool) -> tuple[tuple[int, float], ...]:
    found: list[tuple[int, float]] = []
    for dot in dots:
        if dot.state != "completed" or dot.value is None:
            continue
        is_better = not found or (
            dot.value > found[-1][1] if descending else dot.value < found[-1][1]
        )
        if is_better:
            found.append((dot.order, dot.value))
    return tuple(found)


def _wall_s(job: JobRow) -> float | None:
    if job.started_at is None or job.finished_at is None:
        return None
    return round((job.finished_at - job.started_at).total_seconds(), 3)


def _trials_per_s(job: JobRow, rows: Sequence[TrialRow]) -> float | None:
    if job.search_started_at is None or job.search_ended_at is None:
        return None
    seconds = (job.search_ended_at - job.search_started_at).total_seconds()
    ended = sum(row.phase == "search" and row.state in FINAL_TRIAL_STATES for row in rows)
    return round(ended / seconds, 3) if seconds > 0 else None
