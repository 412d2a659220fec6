import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dropt.tuning.student import normal_quantile, t_cdf, t_critical, t_quantile, t_upper_tail

DFS = (0.9, 1.0, 1.7, 2.0, 3.3, 4.0, 19.0, 76.3, 997.0, 9_999.0, 10_000.0, 123_456.7, 1e6)
LEVELS = (1e-6, 1e-5, 1e-4, 0.0065, 0.0126, 0.05, 0.2, 0.5, 0.9)


@pytest.mark.parametrize("df", DFS)
@pytest.mark.parametrize("level", LEVELS)
def test_critical_value_is_that_of_scipy(df: float, level: float) -> None:
    expected = float(stats.t.isf(level / 2, df))
    assert t_critical(level, df) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("df", DFS)
def test_tails_are_those_of_scipy(df: float) -> None:
    for t in (-40.0, -6.0, -1.8, -0.3, 0.0, 0.01, 0.9, 1.7, 2.5, 12.0):
        assert t_cdf(t, df) == pytest.approx(float(stats.t.cdf(t, df)), rel=1e-10, abs=1e-290)
        assert t_upper_tail(t, df) == pytest.approx(
            float(stats.t.sf(t, df)), rel=1e-10, abs=1e-290
        )


def test_one_and_two_degrees_of_freedom_follow_their_closed_forms() -> None:
    for p in (0.6, 0.9, 0.975, 0.9999):
        assert t_quantile(p, 1.0) == pytest.approx(np.tan(np.pi * (p - 0.5)), rel=1e-11)
        closed = (2 * p - 1) * np.sqrt(2 / (4 * p * (1 - p)))
        assert t_quantile(p, 2.0) == pytest.approx(closed, rel=1e-11)


def test_endless_degrees_of_freedom_give_the_normal_quantile() -> None:
    assert t_quantile(0.975, float("inf")) == normal_quantile(0.975)


@given(st.floats(1e-6, 1 - 1e-6), st.floats(1.0, 1e6))
def test_quantile_inverts_the_distribution(probability: float, df: float) -> None:
    assert t_cdf(t_quantile(probability, df), df) == pytest.approx(probability, rel=1e-9)


@given(st.floats(1e-6, 0.4999), st.floats(1.0, 1e6))
def test_quantiles_are_symmetric_and_fall_with_the_degrees_of_freedom(
    tail: float, df: float
) -> None:
    assert t_quantile(1 - tail, df) == pytest.approx(-t_quantile(tail, df), rel=1e-9)
    assert t_quantile(tail, df) <= t_quantile(tail, 2 * df) <= 0


def test_median_is_zero() -> None:
    assert t_quantile(0.5, 3.0) == 0.0


@pytest.mark.parametrize(("probability", "df"), [(0.0, 3.0), (1.0, 3.0), (0.5, 0.0), (0.5, -1.0)])
def test_impossible_arguments_are_refused(probability: float, df: float) -> None:
    with pytest.raises(ValueError, match=str(df)):
        t_quantile(probability, df)
