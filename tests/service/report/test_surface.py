import numpy as np
import pytest
from scipy import stats

from dropt.report.surface import Effects, Floats, Setting, fit

GRID = np.linspace(0.0, 1.0, 13)
CHOSEN = 5


def settings_of(x: Floats) -> list[Setting]:
    return [Setting(x[:, d], GRID) for d in range(x.shape[1])]


def fitted(seed: int, *, n: int = 40, noise: float = 0.15) -> Effects:
    """A bowl in the first setting, a slope in the second, nothing in the third."""
    generator = np.random.default_rng(seed)
    x = generator.random((n, 3))
    y = bowl(x[:, 0]) + 0.5 * x[:, 1] + noise * generator.standard_normal(n)
    return fit(settings_of(x), y, np.random.default_rng(1))


def bowl(x: Floats) -> Floats:
    return np.asarray(2.0 * (x - 0.4) ** 2)


@pytest.mark.slow
def test_intervals_cover_the_true_functions() -> None:
    """Pointwise 95 % bands of 8 data sets, three functions: 0.89 would be far too few."""
    truths = [bowl(GRID), 0.5 * GRID, 0.0 * GRID]
    held = []
    for seed in range(8):
        for curve, truth in zip(fitted(seed).curves, truths, strict=True):
            low, high = np.quantile(curve - curve[:, [CHOSEN]], [0.025, 0.975], axis=0)
            against = truth - truth[CHOSEN]
            held.append(np.delete((low <= against) & (against <= high), CHOSEN).mean())
    assert np.mean(held) >= 0.89


def test_a_strong_setting_has_nearly_all_of_the_variance() -> None:
    generator = np.random.default_rng(3)
    x = generator.random((60, 2))
    effects = fit(settings_of(x), 3.0 * x[:, 0] + 0.05 * generator.standard_normal(60), generator)
    shares, rest = effects.shares()
    assert shares[0].mean() > 0.95
    assert shares[1].mean() < 0.02
    assert np.allclose(shares.sum(axis=0) + rest, 1.0)


def test_a_slope_is_found_as_least_squares_finds_it() -> None:
    generator = np.random.default_rng(4)
    x = generator.random((60, 1))
    y = 2.0 * x[:, 0] + 0.1 * generator.standard_normal(60)
    line = stats.linregress(x[:, 0], y)
    (curve,) = fit(settings_of(x), y, generator).curves
    rise = curve[:, -1] - curve[:, 0]
    assert rise.mean() == pytest.approx(line.slope, abs=3 * line.stderr)


def test_noise_alone_makes_nothing_important() -> None:
    generator = np.random.default_rng(5)
    x = generator.random((40, 2))
    shares, rest = fit(settings_of(x), generator.standard_normal(40), generator).shares()
    assert np.quantile(shares, 0.025, axis=1).max() < 0.05
    assert rest.mean() > 0.5


def test_categories_tell_nothing_of_each_other() -> None:
    generator = np.random.default_rng(6)
    codes = np.tile([0.0, 0.5, 1.0], 20)
    level = np.where(codes == 0.5, 1.0, 0.0)
    setting = Setting(codes, np.array([0.0, 0.5, 1.0]), is_category=True)
    y = level + 0.1 * generator.standard_normal(60)
    (curve,) = fit([setting], y, generator).curves
    assert (curve[:, 1] - curve[:, 0]).mean() == pytest.approx(1.0, abs=0.15)
    assert (curve[:, 2] - curve[:, 0]).mean() == pytest.approx(0.0, abs=0.15)


def test_the_same_seed_gives_the_same_curves() -> None:
    first, again = fitted(1, n=15), fitted(1, n=15)
    assert all(np.array_equal(a, b) for a, b in zip(first.curves, again.curves, strict=True))


def test_effects_scale_with_the_value() -> None:
    generator = np.random.default_rng(7)
    x = generator.random((20, 1))
    y = x[:, 0] + 0.2 * generator.standard_normal(20)
    once = fit(settings_of(x), y, np.random.default_rng(1))
    thousand = fit(settings_of(x), 1000.0 * y + 5.0, np.random.default_rng(1))
    assert np.allclose(thousand.curves[0], 1000.0 * once.curves[0])
    assert np.allclose(thousand.noise, 1e6 * once.noise)
