"""Scores of single test examples: which way is better, and what a diverged training scores."""

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from dropt.tuning.evidence import FloatArray

if TYPE_CHECKING:
    from dropt.spec.job import Direction, Metric

SHARES: frozenset["Metric"] = frozenset({"accuracy"})  # between 0 and 1, told in percent
MIN_SHARE_EFFECT = 0.005  # half a point
MIN_LOSS_EFFECT = 0.01  # of the mean loss of `without`


def paired_differences(
    with_scores: npt.ArrayLike, without_scores: npt.ArrayLike, direction: "Direction"
) -> FloatArray:
    """Scores of `with` minus `without`, [R, N] each, turned so that positive is better.

    Row r of both is the pair of seed index r, column i of both the same test example.
    """
    first = np.asarray(with_scores, dtype=np.float64)
    second = np.asarray(without_scores, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"scores do not pair: {first.shape} and {second.shape}")
    differences = first - second if direction == "maximize" else second - first
    return np.asarray(differences, dtype=np.float64)


def default_min_effect(metric: "Metric", without_mean: float) -> float:
    """Smallest effect of interest: half a point of a share, 1 % of the mean of a loss."""
    return MIN_SHARE_EFFECT if metric in SHARES else MIN_LOSS_EFFECT * abs(without_mean)


def constant_class_scores(
    metric: Literal["nll", "accuracy"], class_counts: npt.ArrayLike, labels: npt.ArrayLike
) -> FloatArray:
    """Scores [N] of the class prior of the training rows: what a diverged classifier gets.

    `class_counts` [C] of the training rows, `labels` [N] of the scored ones. The prior is
    Laplace's (count + 1)/(n + C), so that a class unseen in training has a finite loss; a tie of
    the most frequent class goes to the lowest.
    """
    counts = np.asarray(class_counts, dtype=np.float64)
    classes = np.asarray(labels, dtype=np.int64)
    if metric == "accuracy":
        return np.asarray(classes == int(counts.argmax()), dtype=np.float64)
    losses = np.log(counts.sum() + len(counts)) - np.log(counts + 1.0)
    return np.asarray(losses[classes], dtype=np.float64)


def constant_value_scores(train_mean: npt.ArrayLike, targets: npt.ArrayLike) -> FloatArray:
    """Squared errors [N] of the mean of the training targets; several outputs are averaged."""
    errors = np.square(np.asarray(targets, dtype=np.float64) - np.asarray(train_mean))
    return np.asarray(errors.reshape(len(errors), -1).mean(axis=1), dtype=np.float64)
