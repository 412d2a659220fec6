"""What each setting of a search does to the value: an additive Gaussian process, fully Bayesian.

The value is a mean, plus one smooth function of each setting, plus noise (Duvenaud, Nickisch and
Rasmussen 2011, of which the first order alone). Scales and noise are not fitted but sampled by
Metropolis steps, because a fitted scale of 0 would call a setting useless with certainty.
Interactions between settings end up in the noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

N_STEPS, N_WARM_UP, EVERY = 1500, 500, 10  # Metropolis steps; 100 samples are kept
DRAWS_OF_SAMPLE = 4  # 400 curves: their 2.5 % quantile stands on ten
STEP = 0.7  # of a proposal, in log scale: about 4 in 10 are taken
PRIOR_SCALE, PRIOR_LENGTH, PRIOR_NOISE = 0.4, 0.5, 0.5  # medians, in spreads of the value
PRIOR_WIDTH = np.array([1.0, 0.5, 1.0])  # of their logarithms: scale, length, noise
CATEGORY_GAP = 1e3  # lengths between two categories: they tell nothing of each other
JITTER = 1e-9


@dataclass(frozen=True)
class Setting:
    """One setting of the trials in [0, 1], and where its effect is wanted."""

    values: Floats  # [n trials]
    grid: Floats  # [g], sorted
    is_category: bool = False


@dataclass(frozen=True)
class Effects:
    """Draws of the function of each setting on its grid, and of the variance of the noise.

    `curves[d]` is [draws, g]: in units of the value, up to a constant of the draw.
    """

    curves: tuple[Floats, ...]
    noise: Floats

    def shares(self) -> tuple[Floats, Floats]:
        """Share of the variance of each setting [settings, draws], and what is left [draws].

        Settings are taken to be independent and even over their grids.
        """
        variances = np.stack([curve.var(axis=1) for curve in self.curves])
        total = variances.sum(axis=0) + self.noise
        return variances / total, self.noise / total


def fit(settings: Sequence[Setting], value: Floats, generator: np.random.Generator) -> Effects:
    """Draws from the posterior; `value` is [n trials], finite and not constant."""
    spread = float(value.std())
    target = (value - value.mean()) / spread
    squares = [_squares(one.values, one.values, one) for one in settings]
    samples = _sample(np.stack(squares), target, generator)
    drawn = [_draw(settings, squares, target, one, generator) for one in samples]
    noise = np.repeat([np.exp(2 * one[-1]) for one in samples], DRAWS_OF_SAMPLE)
    return Effects(
        curves=tuple(
            spread * np.concatenate([draw[d] for draw in drawn]) for d in range(len(settings))
        ),
        noise=spread**2 * noise,
    )


def _squares(left: Floats, right: Floats, setting: Setting) -> Floats:
    distance = left[:, None] - right[None, :]
    return np.square(CATEGORY_GAP * distance if setting.is_category else distance)


def _smooth(squares: Floats, log_length: float) -> Floats:
    return np.asarray(np.exp(-0.5 * squares / np.exp(2 * log_length)))


def _covariance(kernels: Floats, theta: Floats) -> Floats:
    """Of the values: `theta` is the log of each scale, of the length, of the noise."""
    found = np.tensordot(np.exp(2 * theta[:-2]), kernels, axes=1)
    found += 1.0  # the mean
    found[np.diag_indices_from(found)] += np.exp(2 * theta[-1]) + JITTER
    return np.asarray(found)


def _log_posterior(kernels: Floats, target: Floats, theta: Floats, prior: Floats) -> float:
    factor = np.linalg.cholesky(_covariance(kernels, theta))
    whitened = np.linalg.solve(factor, target)
    likelihood = -0.5 * whitened @ whitened - np.log(factor.diagonal()).sum()
    width = np.concatenate([np.full(len(theta) - 2, PRIOR_WIDTH[0]), PRIOR_WIDTH[1:]])
    return float(likelihood - 0.5 * np.square((theta - prior) / width).sum())


def _sample(squares: Floats, target: Floats, generator: np.random.Generator) -> list[Floats]:
    """Scales, length and noise from their posterior, one coordinate a step."""
    prior = np.log(np.array([*[PRIOR_SCALE] * len(squares), PRIOR_LENGTH, PRIOR_NOISE]))
    theta, kernels, kept = prior.copy(), _smooth(squares, prior[-2]), []
    density = _log_posterior(kernels, target, theta, prior)
    for step in range(N_STEPS):
        proposal = theta.copy()
        proposal[step % len(theta)] += STEP * generator.standard_normal()
        is_same = proposal[-2] == theta[-2]
        proposed = kernels if is_same else _smooth(squares, proposal[-2])
        there = _log_posterior(proposed, target, proposal, prior)
        if np.log(generator.random()) < there - density:
            theta, density, kernels = proposal, there, proposed
        if step >= N_WARM_UP and step % EVERY == 0:
            kept.append(theta)
    return kept


def _draw(
    settings: Sequence[Setting], squares: Sequence[Floats], target: Floats, theta: Floats,
    generator: np.random.Generator,
) -> list[Floats]:  # fmt: skip
    """Curves of each setting under one sample, [DRAWS_OF_SAMPLE, g] each."""
    kernels = _smooth(np.stack(squares), theta[-2])
    inverse = np.linalg.inv(_covariance(kernels, theta))
    weights = inverse @ target
    found = []
    for setting, log_scale in zip(settings, theta[:-2], strict=True):
        variance = np.exp(2 * log_scale)
        cross = variance * _smooth(_squares(setting.grid, setting.values, setting), theta[-2])
        within = variance * _smooth(_squares(setting.grid, setting.grid, setting), theta[-2])
        left = within - cross @ inverse @ cross.T
        values, vectors = np.linalg.eigh((left + left.T) / 2)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        normal = generator.standard_normal((DRAWS_OF_SAMPLE, len(setting.grid)))
        found.append(cross @ weights + normal @ root.T)
    return found
