import numpy as np
import pytest
from scipy import stats

from dropt.tuning.designs import N_RUNS, main_effects, plackett_burman


@pytest.mark.parametrize("n_runs", N_RUNS)
def test_every_factor_is_on_in_half_of_the_runs_and_none_leans_on_another(n_runs: int) -> None:
    signs = np.where(plackett_burman(n_runs), 1, -1)
    assert signs.shape == (n_runs, n_runs - 1)
    assert (signs.sum(axis=0) == 0).all()
    assert (signs.T @ signs == n_runs * np.eye(n_runs - 1)).all()


@pytest.mark.parametrize("n_runs", N_RUNS)
def test_one_run_has_everything_on_and_none_has_nothing(n_runs: int) -> None:
    is_on = plackett_burman(n_runs)
    assert is_on.all(axis=1).sum() == 1
    assert is_on.any(axis=1).all()


def test_effects_without_noise_are_found_exactly() -> None:
    is_on = plackett_burman(12)
    truth = np.linspace(-1, 1, 11)
    values = 3.0 + np.array([[0.0], [7.0]]) + is_on @ truth
    found = main_effects(is_on, values)
    assert np.allclose(found.effect, truth)
    assert np.allclose(found.se, 0.0)


@pytest.mark.parametrize("n_factors", [5, 11])
def test_effects_are_the_differences_of_the_means_of_both_halves(n_factors: int) -> None:
    is_on = plackett_burman(12)[:, :n_factors]
    values = np.random.default_rng(3).normal(size=(2, 12))
    found = main_effects(is_on, values)
    for factor in range(n_factors):
        on = is_on[:, factor]
        assert found.effect[factor] == pytest.approx(values[:, on].mean() - values[:, ~on].mean())


def test_noise_is_that_of_repeated_runs_and_not_of_seeds_or_interactions() -> None:
    """A seed that shifts all its runs, and two factors that act together, are no noise."""
    is_on = plackett_burman(12)[:, :4]
    together = 5.0 * (is_on[:, 0] & is_on[:, 1])
    values = together + np.array([[0.0], [9.0]])
    assert np.allclose(main_effects(is_on, values).se, 0.0)


def test_standard_errors_cover_what_they_should() -> None:
    """600 experiments: a 95 % interval misses in 5 %, here within 4 standard errors of that."""
    generator = np.random.default_rng(1)
    is_on = plackett_burman(12)[:, :8]
    critical = stats.t.ppf(0.975, df=11)
    missed = 0
    for _ in range(600):
        found = main_effects(is_on, generator.normal(size=(2, 12)))
        missed += sum(abs(e) > critical * s for e, s in zip(found.effect, found.se, strict=True))
    assert abs(missed / 4800 - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 600)


def test_missing_runs_leave_the_other_effects_right() -> None:
    is_on = plackett_burman(12)[:, :6]
    truth = np.arange(6.0)
    values = np.repeat((is_on @ truth)[None], 2, axis=0)
    values[0, 3] = values[1, 3] = values[1, 7] = np.nan
    assert np.allclose(main_effects(is_on, values).effect, truth)


def test_noise_of_runs_that_were_never_repeated_is_not_known() -> None:
    is_on = plackett_burman(12)[:, :3]
    values = np.zeros((2, 12))
    values[1] = np.nan
    assert main_effects(is_on, values).se == (np.inf,) * 3
    assert main_effects(is_on, np.full((2, 12), np.nan)).se == (np.inf,) * 3
