import pytest

from dropt.report import words


def test_effects_have_the_unit_and_the_sign_of_the_metric() -> None:
    accuracy = words.tell_effect(0.0091, (0.004, 0.0142), "accuracy")
    assert (accuracy.text, accuracy.interval) == ("+0.91 points", "+0.40 to +1.42")
    loss = words.tell_effect(0.006, (-0.008, 0.021), "nll")  # positive is better: the loss falls
    assert (loss.text, loss.interval) == ("-0.006", "-0.021 to +0.008")
    assert (accuracy.word, loss.word) == ("better", "better")


def test_the_word_follows_the_effect() -> None:
    told = [words.tell_effect(effect, None, "mse") for effect in (0.1, -0.1, 0.0)]
    assert [one.word for one in told] == ["better", "worse", "equal"]
    assert told[0].interval is None


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, "not measured"), (0.9341, "93.4 %"), (1.0, "100.0 %"), (0.0, "0.0 %")],
)
def test_missing_scores_are_not_told_as_zero(value: float | None, told: str) -> None:
    assert words.tell_score(value, "accuracy") == told


def test_scores_have_the_digits_that_their_spread_leaves() -> None:
    assert words.tell_score(0.04712, "nll", spread=0.0145) == "0.047"
    assert words.tell_score(0.04712, "nll", spread=0.00035) == "0.04712"
    assert words.tell_score(1234.5, "mse", spread=20.0) == "1234"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(None, "not measured"), (0.42, "0.4 s"), (59.6, "1 min 0 s"), (87.4, "1 min 27 s"),
     (7500.0, "2 h 5 min")],
)  # fmt: skip
def test_durations_are_told_in_words(seconds: float | None, told: str) -> None:
    assert words.tell_seconds(seconds) == told


def test_small_shares_are_not_told_as_zero() -> None:
    assert [words.tell_share(share) for share in (0.0, 0.004, 0.5)] == ["0 %", "< 1 %", "50 %"]


def test_a_range_of_one_rate_is_that_rate() -> None:
    assert words.tell_rates((0.0, 0.6)) == "0-60 %"
    assert words.tell_rates((0.25, 0.25)) == "25 %"
