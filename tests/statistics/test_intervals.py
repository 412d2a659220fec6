"""The crossed interval under looks, at its full sizes: errors, coverage, planned power."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from tests.statistics.telling import tell

from dropt.tuning.evidence import CrossedStatistics, crossed_interval, crossed_statistics
from dropt.tuning.looks import PLANS
from dropt.tuning.planning import Noise, detectable_effect

pytestmark = pytest.mark.statistics

Array = npt.NDArray[np.float64]

RATIOS = (0.0, 0.3, 1.0, 3.0, 10.0)  # variance of the effect due to examples over that to seeds
PLAN = PLANS[20]
N_EXAMPLES = 300


def noise_with(ratio: float) -> Noise:
    """Components that give an effect over 20 seeds and 300 examples a variance of about 1."""
    return Noise(
        seed=PLAN.cap / (1 + ratio), example=N_EXAMPLES * ratio / (1 + ratio),
        residual=0.02 * N_EXAMPLES,
    )  # fmt: skip


def draw(noise: Noise, effect: float, generator: np.random.Generator) -> Array:
    shape = (PLAN.cap, N_EXAMPLES)
    seeds = np.sqrt(noise.seed) * generator.standard_normal((PLAN.cap, 1))
    examples = np.sqrt(noise.example) * generator.standard_normal(N_EXAMPLES)
    rest = np.sqrt(noise.residual) * generator.standard_normal(shape)
    return np.asarray(effect + seeds + examples + rest)


def excludes(value: float, statistics: CrossedStatistics, level: float) -> bool:
    interval = crossed_interval(statistics, level)
    assert interval is not None
    return not interval.low <= value <= interval.high


def crosses(differences: Array) -> bool:
    """Whether any look finds an effect."""
    return any(
        excludes(0.0, crossed_statistics(differences[:n]), level)
        for n, level in zip(PLAN.looks, PLAN.levels, strict=True)
    )


@pytest.mark.parametrize("ratio", RATIOS)
def test_any_look_is_wrong_in_at_most_five_percent(ratio: float) -> None:
    """3,000 runs: a rate of 5 % is found above 6.2 % in 0.2 % of the tests."""
    generator, noise = np.random.default_rng([1, int(10 * ratio)]), noise_with(ratio)
    wrong = sum(crosses(draw(noise, 0.0, generator)) for _ in range(3000)) / 3000
    tell(f"any look wrong, examples / seeds {ratio:g}: {wrong:.2%}")
    assert wrong <= 0.062


@pytest.mark.parametrize("ratio", RATIOS)
def test_planned_effect_is_found_as_planned(ratio: float) -> None:
    generator, noise = np.random.default_rng([2, int(10 * ratio)]), noise_with(ratio)
    effect = detectable_effect(noise, n_seeds=PLAN.cap, n_examples=N_EXAMPLES)
    power = sum(crosses(draw(noise, effect, generator)) for _ in range(800)) / 800
    tell(f"planned effect {effect:.2f}, examples / seeds {ratio:g}: power {power:.1%}")
    assert 0.74 <= power <= 0.88


def probit_accuracy(n_seeds: int, spread: float) -> Callable[[np.random.Generator], Array]:
    """0/1 scores of two arms whose chance to be right depends on example and on seed."""

    def draw_scores(generator: np.random.Generator) -> Array:
        hardness = 1.2 * generator.standard_normal(400)
        scores = []
        for shift in (1.0, 1.1):
            own = hardness + 0.4 * generator.standard_normal(400)
            seeds = spread * generator.standard_normal((n_seeds, 1))
            scores.append(shift + own + seeds + generator.standard_normal((n_seeds, 400)) > 0)
        first, second = (np.asarray(one, np.float64) for one in scores)
        return np.asarray(second - first)

    return draw_scores


@pytest.mark.parametrize("n_seeds", [5, 8, 12, 20])
@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_interval_covers_differences_of_accuracy(n_seeds: int, spread: float) -> None:
    """The truth is the mean over 6,000 further runs."""
    generator = np.random.default_rng([3, n_seeds, int(10 * spread)])
    scores = probit_accuracy(n_seeds, spread)
    truth = float(np.mean([scores(generator).mean() for _ in range(6000)]))
    missed = sum(excludes(truth, crossed_statistics(scores(generator)), 0.05) for _ in range(1500))
    tell(f"accuracy, {n_seeds} seeds, spread {spread:g}: covered {1 - missed / 1500:.1%}")
    assert 1 - missed / 1500 >= 0.925


def test_interval_covers_subsamples_of_real_digits() -> None:
    """5 seeds and 100 test digits out of 40 and 997, without replacement: 3,000 subsamples."""
    differences = digits_accuracy(n_seeds=40)
    truth = float(differences.mean())
    generator = np.random.default_rng(4)
    missed = 0
    for _ in range(3000):
        rows = generator.choice(len(differences), 5, replace=False)
        columns = generator.choice(differences.shape[1], 100, replace=False)
        missed += excludes(truth, crossed_statistics(differences[np.ix_(rows, columns)]), 0.05)
    tell(f"digits, subsamples of accuracy: covered {1 - missed / 3000:.1%}")
    assert 1 - missed / 3000 >= 0.91


def digits_accuracy(n_seeds: int) -> Array:
    """Accuracy with dropout 0.3 minus without, [seed, test digit], 400 training digits."""
    import torch
    from sklearn.datasets import load_digits

    torch.set_num_threads(1)
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x = torch.tensor(data.data[order] / 16.0, dtype=torch.float32)
    y = torch.tensor(data.target[order])
    train, test = slice(0, 400), slice(800, None)

    def right(seed: int, rate: float) -> Array:
        """One training with the same start and order for every rate."""
        start = torch.Generator().manual_seed(seed)
        masks = torch.Generator().manual_seed(10_000 + seed)
        weights = [
            torch.randn(shape, generator=start).mul_((2.0 / shape[0]) ** 0.5).requires_grad_()
            for shape in ((64, 64), (64, 10))
        ]
        optimizer = torch.optim.Adam(weights, lr=3e-3)
        for _ in range(40):
            for rows in torch.split(torch.randperm(400, generator=start), 50):
                hidden = torch.relu(x[train][rows] @ weights[0])
                keep = torch.rand(hidden.shape, generator=masks) >= rate
                loss = torch.nn.functional.cross_entropy(
                    (hidden * keep / (1 - rate)) @ weights[1], y[train][rows]
                )
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation
                optimizer.step()
        with torch.no_grad():
            logits = torch.relu(x[test] @ weights[0]) @ weights[1]
        return np.asarray((logits.argmax(1) == y[test]).numpy(), float)

    return np.stack([right(seed, 0.3) - right(seed, 0.0) for seed in range(n_seeds)])
