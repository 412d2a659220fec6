import io

from rich.console import Console
from tests.service.cli.answers import SUMMARY, best, configuration, site, verdict

from dropt.cli.answer import NextStep, print_answer
from dropt.spec.results import BestRead, VerdictRead

WITH = configuration("with", site("layers.1:out", 0.3), site("layers.3:out", 0.0, units=64))
WITHOUT = configuration("without", site("layers.1:out", 0.0), site("layers.3:out", 0.0, units=64))


def printed(
    answer: VerdictRead | None, found: BestRead | None, *steps: NextStep, terminal: bool = False
) -> str:
    sink = io.StringIO()
    console = Console(file=sink, width=100, force_terminal=terminal, highlight=False)
    print_answer(console, answer, found, steps)
    return sink.getvalue()


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_block_has_the_sentence_the_sites_and_what_to_do_next() -> None:
    text = printed(verdict(), best(WITH), NextStep("see it", "dropt show job_1"))
    lines = text.splitlines()
    assert lines[1] == SUMMARY
    assert ["layers.1:out", "128", "element", "30", "%"] in rows(text)
    assert ["layers.3:out", "64", "-", "0"] in rows(text)
    assert "  layers.4:out  never dropped (output layer)" in lines
    assert lines[-1] == "  see it  dropt show job_1"


def test_best_dropout_stands_beside_a_recommendation_without() -> None:
    text = printed(verdict(verdict="undecided"), best(WITHOUT, WITH))
    assert "best dropout found" in text
    assert ["layers.1:out", "128", "element", "0", "30", "%"] in rows(text)
    assert ["layers.3:out", "64", "-", "0", "0"] in rows(text)


def test_recommended_dropout_needs_no_second_column() -> None:
    assert "best dropout found" not in printed(verdict(), best(WITH, WITHOUT))


def test_cautions_and_what_would_decide_are_said_in_words() -> None:
    text = printed(
        verdict(would_decide="About 40 seeds would.", cautions=("few_test_examples", "new_one")),
        best(WITH),
    )
    assert "  About 40 seeds would." in text.splitlines()
    assert "fewer than 200 test examples" in text
    assert "caution: new one" in text


def test_long_sentence_is_one_line_in_a_pipe() -> None:
    long = verdict(summary="Dropout " + "really " * 40 + "helps.")
    assert long.summary in printed(long, best(WITH)).splitlines()


def test_pipe_gets_no_control_characters_and_a_terminal_gets_colour() -> None:
    assert "\x1b" not in printed(verdict(), best(WITH))
    assert "\x1b[1;32mDropout helps" in printed(verdict(), best(WITH), terminal=True)


def test_answer_without_a_verdict_shows_the_best_so_far() -> None:
    text = printed(None, best(WITH, summary="No verdict yet."))
    assert "No verdict yet." in text
    assert "layers.1:out" in text


def test_site_without_units_and_an_unknown_reason_are_printed_plainly() -> None:
    odd = best(
        configuration("with", site("a:out", 0.25, units=None)),
        never_dropped=[{"site": "b", "layer": None, "reason": "some_reason"}],
    )
    text = printed(verdict(), odd)
    assert ["a:out", "element", "25", "%"] in rows(text)
    assert ["b", "never", "dropped", "(some", "reason)"] in rows(text)
