import io
import re

import pytest
from rich.console import Console
from tests.service.cli.answers import arm, job

from dropt.cli.progress import Bars, PlainLines, make_console, make_progress
from dropt.spec.results import EvidenceProgress, JobRead

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def course() -> list[JobRead]:
    """A job as it is seen 400 times on its way."""
    seen = [job(phase=None, state="queued", reason="Waiting for a worker.")]
    for step in range(300):
        arms = (
            arm("with", complete=step // 5, best_value=0.951),
            arm("without", pruned=step // 5),
        )
        seen.append(job(fraction=step / 600, arms=arms))
    for step in range(100):
        evidence = EvidenceProgress(
            shortlist_done=36, shortlist_target=36, seeds_done=step // 13, seeds_cap=8
        )
        seen.append(job(fraction=0.5 + step / 200, phase="evidence", evidence=evidence))
    return [*seen, job(fraction=1.0, phase=None, state="succeeded")]


def shown(jobs: list[JobRead], *, terminal: bool = False) -> str:
    sink = io.StringIO()
    console = Console(file=sink, width=100, force_terminal=terminal, highlight=False)
    with make_progress(console) as progress:
        progress.wait_for("starts the service and its workers")
        for each in jobs:
            progress.show(each)
    return sink.getvalue()


def test_pipe_gets_at_most_one_line_for_each_tenth_and_no_control_characters() -> None:
    text = shown(course())
    lines = text.splitlines()
    tenths = [line.split(" %")[0].strip() for line in lines if " %" in line[:6]]
    assert tenths == ["0", "10", "20", "30", "40", "50", "60", "70", "80", "90", "100"]
    assert len(lines) == 1 + len(tenths)
    assert not CONTROL.search(text)


def test_first_line_is_there_before_the_job_is() -> None:
    assert shown([]).splitlines() == ["preparing   starts the service and its workers"]


def test_search_line_names_the_arms_in_order_with_their_best() -> None:
    text = shown([job(fraction=0.2, arms=(arm("with", complete=3, best_value=0.951),
                                          arm("without", complete=2, pruned=1)))])  # fmt: skip
    assert "20 %  search" in text
    assert "without 3/64  with 3/64 (95.1 %)" in text


def test_evidence_counts_the_shortlist_first_and_then_the_seeds() -> None:
    shortlist = EvidenceProgress(shortlist_done=4, shortlist_target=36, seeds_cap=20)
    seeds = EvidenceProgress(shortlist_done=36, shortlist_target=36, seeds_done=5, seeds_cap=20)
    assert "4/36 trainings of the shortlist" in shown(
        [job(fraction=0.6, phase="evidence", evidence=shortlist)]
    )
    assert "5/20 paired seeds on the test split" in shown(
        [job(fraction=0.6, phase="evidence", evidence=seeds)]
    )


def test_terminal_gets_bars_of_what_has_begun() -> None:
    arms = (arm("without", complete=1), arm("with"))
    waiting = shown([job(phase="preparing")], terminal=True)
    searching = shown([job(arms=arms)], terminal=True)
    evidence = EvidenceProgress(seeds_done=2, seeds_cap=8)
    ended = shown(
        [job(phase=None, state="succeeded", arms=arms, evidence=evidence)], terminal=True
    )
    assert "search" not in waiting
    assert "━" in searching
    assert "without" in searching
    assert "evidence" not in searching
    assert "1/64" in ended
    assert "2/8" in ended


def test_waiting_job_says_what_it_waits_for() -> None:
    waiting = job(phase=None, state="queued", reason="Waiting for a worker.")
    assert "Waiting for a worker." in shown([waiting])
    assert "Waiting for a worker." in shown([waiting], terminal=True)


def test_bars_are_for_terminals_alone() -> None:
    assert isinstance(make_progress(Console(file=io.StringIO())), PlainLines)
    assert isinstance(make_progress(Console(file=io.StringIO(), force_terminal=True)), Bars)


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    console = make_console()
    assert console.no_color
