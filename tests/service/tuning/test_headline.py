import pytest

from dropt.tuning.evidence import CrossedStatistics, Interval
from dropt.tuning.headline import format_effect, headline, not_tested_headline, would_decide
from dropt.tuning.planning import Outlook
from dropt.tuning.verdict import Decision, Look, Reason


def look(
    effect: float, bounds: tuple[float, float] | None, decision: Decision, *, n_seeds: int = 8
) -> Look:
    statistics = CrossedStatistics(effect, 1.0, 1.0, 1.0, n_seeds, 997, ())
    interval = None if bounds is None else Interval(*bounds, 0.0102)
    return Look(2, statistics, 0.0102, interval, decision)


def accuracy(effect: float, bounds: tuple[float, float] | None, decision: Decision) -> str:
    seen = look(effect, bounds, decision)
    return headline(seen, metric="accuracy", without_mean=0.9343, min_effect=0.005)


def loss(effect: float, bounds: tuple[float, float], decision: Decision) -> str:
    seen = look(effect, bounds, decision)
    return headline(seen, metric="nll", without_mean=0.2144, min_effect=0.002144)


def test_help_is_told_in_percent_and_points() -> None:
    assert accuracy(0.0091, (0.0040, 0.0142), Decision("helps")) == (
        "Dropout helps: 93.4 % -> 94.3 % test accuracy "
        "(+0.91 points, 95 % interval +0.40 to +1.42, 8 seeds, 997 examples)"
    )


def test_help_is_told_in_plain_numbers_for_a_loss() -> None:
    assert loss(0.0242, (0.0110, 0.0374), Decision("helps")) == (
        "Dropout helps: 0.214 -> 0.190 test log loss, lower is better "
        "(-0.024, 95 % interval -0.037 to -0.011, 8 seeds, 997 examples)"
    )


def test_harm_is_about_the_best_configuration_found() -> None:
    assert accuracy(-0.0091, (-0.0142, -0.0040), Decision("hurts")) == (
        "Dropout hurts: 93.4 % -> 92.5 % test accuracy "
        "(-0.91 points, 95 % interval -1.42 to -0.40, 8 seeds, 997 examples): "
        "the best dropout configuration this search found is worse than none"
    )


def test_no_difference_names_the_bound_of_any_effect() -> None:
    assert accuracy(0.0003, (-0.0021, 0.0027), Decision("no_measurable_difference")) == (
        "No measurable difference: 93.4 % -> 93.5 % test accuracy "
        "(+0.03 points, 95 % interval -0.21 to +0.27, 8 seeds, 997 examples): "
        "any effect is smaller than 0.5 points. Leave dropout out."
    )


@pytest.mark.parametrize("sign", ["better", "worse"])
def test_small_but_certain_difference_is_told_with_its_side(sign: str) -> None:
    decision = Decision("no_measurable_difference", sign=sign)  # type: ignore[arg-type]  # a Sign
    told = loss(0.0003, (0.0001, 0.0005), decision)
    assert told.endswith(f": dropout is {sign}, but by less than 0.0021. Leave dropout out.")


@pytest.mark.parametrize(
    ("reason", "end"),
    [
        ("test_set_too_small", "997 test examples are too few for 0.5 points"),
        ("seed_budget", "the spread over seeds is too large to tell"),
    ],
)
def test_open_question_names_what_was_short(reason: Reason, end: str) -> None:
    told = accuracy(0.0031, (-0.0020, 0.0082), Decision("undecided", reason=reason))
    assert told == (
        "Undecided: 93.4 % -> 93.7 % test accuracy "
        f"(+0.31 points, 95 % interval -0.20 to +0.82, 8 seeds, 997 examples): {end}"
    )


def test_without_variation_no_interval_is_told() -> None:
    told = accuracy(0.0, None, Decision("undecided", reason="no_variation"))
    assert "(+0.00 points, no interval, 8 seeds, 997 examples): all differences are equal" in told


def test_provisional_verdict_says_so() -> None:
    told = accuracy(0.0031, (-0.0020, 0.0082), Decision("undecided", go_on=True))
    assert told.startswith("Undecided so far: ")
    assert told.endswith(": more seeds follow")


def test_narrow_interval_brings_more_decimals() -> None:
    told = accuracy(0.00031, (0.00029, 0.00033), Decision("helps"))
    assert "93.430 % -> 93.461 %" in told
    assert "(+0.0310 points, 95 % interval +0.0290 to +0.0330," in told


def test_large_and_tiny_losses_keep_two_figures_of_the_interval() -> None:
    def told(effect: float, half: float, without_mean: float) -> str:
        seen = look(effect, (effect - half, effect + half), Decision("helps"))
        return headline(seen, metric="mse", without_mean=without_mean, min_effect=1.0)

    assert "3457 -> 3444 test mean squared error" in told(12.3, 11.0, 3456.7)
    assert "4.100e-07 -> 3.970e-07 test" in told(1.3e-8, 0.8e-8, 4.1e-7)


@pytest.mark.parametrize("effect", [1e-9, -1e-9, 0.0])
def test_zero_has_no_minus_sign(effect: float) -> None:
    told = accuracy(effect, (-0.002, 0.002), Decision("no_measurable_difference"))
    assert "(+0.00 points" in told


@pytest.mark.parametrize(
    "reason",
    [
        "evidence_off",
        "no_test_split",
        "too_few_test_examples",
        "no_finished_trial",
        "too_few_seeds",
    ],
)
def test_comparison_that_was_not_made_says_why(reason: Reason) -> None:
    assert not_tested_headline(reason).startswith("Not tested: ")


def test_switched_off_evidence_is_told_in_these_words() -> None:
    assert not_tested_headline("evidence_off") == "Not tested: evidence was off."


def test_effects_have_two_figures_and_a_unit() -> None:
    assert format_effect(0.005, "accuracy") == "0.5 points"
    assert format_effect(-0.01, "accuracy") == "1 point"
    assert format_effect(0.0123, "accuracy") == "1.2 points"
    assert format_effect(0.002144, "nll") == "0.0021"
    assert format_effect(250.0, "mse") == "250"


def test_what_would_decide_names_seeds_and_examples() -> None:
    def told(seeds: int | None, examples: int | None) -> str:
        view = Outlook(0.01, 0.01, "seeds", seeds, examples)
        return would_decide(view, n_seeds=20, metric="accuracy", min_effect=0.005)

    assert told(45, 4100) == (
        "To show 0.5 points with 80 % power takes about 45 seeds on this test set "
        "or about 4100 test examples with 20 seeds."
    )
    assert told(45, None) == (
        "To show 0.5 points with 80 % power takes about 45 seeds on this test set."
    )
    assert told(None, None) == (
        "Neither more seeds nor more test examples alone would show 0.5 points."
    )


def test_points_have_two_decimals_however_wide_the_interval() -> None:
    told = accuracy(0.031, (-0.094, 0.156), Decision("undecided", reason="test_set_too_small"))
    assert "93.4 % -> 96.5 %" in told
    assert "(+3.10 points, 95 % interval -9.40 to +15.60," in told
