"""Each rule of the checker finds the history that breaks it, and no rule finds a right one."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.history import Budget, Measured, Violation, check

from dropt.spec.results import EventRead

START = datetime(2026, 11, 24, tzinfo=UTC)


@dataclass(frozen=True)
class Row:
    id: str
    arm: str = "with"
    phase: str = "search"
    number: int = 0
    state: str = "completed"
    attempt: int = 1


def story(*told: tuple[str, str | None, int | None]) -> list[EventRead]:
    """Events one second apart; a type may carry a word of its data after a colon."""
    return [
        EventRead(
            sequence=index + 1, type=type.partition(":")[0], at=START + timedelta(seconds=index),
            job="job_1", trial=trial, attempt=attempt, data=_data(type),
        )
        for index, (type, trial, attempt) in enumerate(told)
    ]  # fmt: skip


def _data(type: str) -> dict[str, object]:
    name, _, word = type.partition(":")
    return {"phase": word} if name == "job.phase" else {"retry": word == "retry"}


def measured(attempt: int, epoch: int, second: float, trial: str = "a") -> Measured:
    return Measured(trial, attempt, epoch, START + timedelta(seconds=second))


RIGHT = story(
    ("job.state", None, None),
    ("job.phase:preparing", None, None),
    ("job.phase:search", None, None),
    ("trial.started", "a", 1),
    ("trial.started", "b", 1),
    ("trial.failed:retry", "b", 1),
    ("trial.started", "a", 2),  # its first lease was lost
    ("trial.started", "b", 2),
    ("trial.given_back", "b", None),
    ("trial.started", "b", 3),
    ("trial.completed", "a", 2),
    ("trial.pruned", "b", 3),
    ("trial.cancelled", "c", 0),
    ("job.finished", None, None),
)
ROWS = [
    Row("a", attempt=2),
    Row("b", number=1, state="pruned", attempt=3),
    Row("c", number=2, state="cancelled", attempt=0),
]
MEASURED = [measured(1, 1, 4), measured(2, 1, 7), measured(2, 2, 8), measured(3, 1, 9.5, "b")]


def rules(found: list[Violation]) -> set[str]:
    return {one.rule for one in found}


def test_right_history_breaks_no_rule() -> None:
    budgets = {"with": Budget(target=4, issued=3)}
    assert check(RIGHT, ROWS, measurements=MEASURED, budgets=budgets) == []


def test_history_of_a_running_job_breaks_no_rule() -> None:
    rows = [replace(ROWS[0], state="running"), *ROWS[1:]]
    told = [event for event in RIGHT[:-1] if event.type != "trial.completed"]
    told = [event.model_copy(update={"sequence": i + 1}) for i, event in enumerate(told)]
    assert check(told, rows) == []


@pytest.mark.parametrize(
    ("rule", "told", "rows"),
    [
        ("attempts-rise", [("trial.started", "a", 2)], [Row("a", state="running", attempt=2)]),
        (
            "attempts-rise",
            [("trial.started", "a", 1), ("trial.started", "a", 1)],
            [Row("a", state="running", attempt=1)],
        ),
        ("attempt-of-row", [("trial.started", "a", 1)], [Row("a", state="running", attempt=2)]),
        (
            "stale-end",
            [("trial.started", "a", 1), ("trial.started", "a", 2), ("trial.completed", "a", 1)],
            [Row("a", attempt=2)],
        ),
        (
            "stale-end",
            [("trial.started", "a", 1), ("trial.started", "a", 2), ("trial.failed:retry", "a", 1)],
            [Row("a", state="waiting", attempt=2)],
        ),
        ("one-end", [("trial.started", "a", 1)], [Row("a")]),
        (
            "one-end",
            [("trial.started", "a", 1), ("trial.completed", "a", 1), ("trial.completed", "a", 1)],
            [Row("a")],
        ),
        (
            "one-end",
            [("trial.started", "a", 1), ("trial.pruned", "a", 1)],
            [Row("a", state="completed")],
        ),
        (
            "one-end",
            [("trial.started", "a", 1), ("trial.completed", "a", 1)],
            [Row("a", state="running")],
        ),
        (
            "nothing-after-end",
            [("trial.started", "a", 1), ("trial.completed", "a", 1), ("trial.given_back", "a", 1)],
            [Row("a")],
        ),
        ("trial-unknown", [("trial.started", "z", 1)], []),
        ("numbers", [], [Row("a", state="waiting", number=1, attempt=0)]),
        (
            "numbers",
            [],
            [Row("a", state="waiting", attempt=0), Row("b", state="waiting", attempt=0)],
        ),
        ("job-phases", [("job.phase:search", None, None)], []),
        ("job-phases", [("job.phase:preparing", None, None)] * 2, []),
        ("one-job-end", [("job.finished", None, None)] * 2, []),
        ("nothing-after-job-end", [("job.finished", None, None), ("job.state", None, None)], []),
    ],
)  # fmt: skip
def test_bad_history_is_caught(
    rule: str, told: list[tuple[str, str | None, int | None]], rows: list[Row]
) -> None:
    assert rule in rules(check(story(*told), rows))


def test_missing_event_is_caught() -> None:
    assert "event-sequence" in rules(check([RIGHT[0], RIGHT[2]], []))


@pytest.mark.parametrize("epochs", [(2,), (1, 3), (1, 1)])
def test_gap_or_repetition_of_epochs_is_caught(epochs: tuple[int, ...]) -> None:
    events = story(("trial.started", "a", 1))
    rows = [Row("a", state="running")]
    found = check(events, rows, measurements=[measured(1, epoch, 2) for epoch in epochs])
    assert rules(found) == {"epochs"}


def test_measurement_of_an_old_attempt_is_caught() -> None:
    events = story(("trial.started", "a", 1), ("trial.started", "a", 2))
    rows = [Row("a", state="running", attempt=2)]
    assert check(events, rows, measurements=[measured(1, 1, 0.5)]) == []
    assert rules(check(events, rows, measurements=[measured(1, 1, 1.5)])) == {"stale-measurement"}


def test_measurement_of_an_attempt_that_was_never_claimed_is_caught() -> None:
    rows = [Row("a", state="waiting", attempt=0)]
    assert rules(check([], rows, measurements=[measured(1, 1, 1)])) == {"stale-measurement"}


@pytest.mark.parametrize("budget", [Budget(target=0, issued=1), Budget(target=4, issued=2)])
def test_budget_that_is_not_exact_is_caught(budget: Budget) -> None:
    rows = [Row("a", state="waiting", attempt=0)]
    assert rules(check([], rows, budgets={"with": budget})) == {"budget"}


def test_arm_that_lost_its_trials_is_caught() -> None:
    assert rules(check([], [], budgets={"with": Budget(4, 4)})) == {"budget"}
