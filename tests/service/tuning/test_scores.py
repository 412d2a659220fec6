import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropt.tuning.scores import (
    constant_class_scores,
    constant_value_scores,
    default_min_effect,
    paired_differences,
)


def test_higher_accuracy_and_lower_loss_are_both_positive() -> None:
    better, worse = [[1.0, 0.75]], [[0.5, 0.5]]
    np.testing.assert_array_equal(paired_differences(better, worse, "maximize"), [[0.5, 0.25]])
    np.testing.assert_array_equal(paired_differences(worse, better, "minimize"), [[0.5, 0.25]])


def test_differences_of_stored_scores_are_taken_in_double_precision() -> None:
    first, second = np.array([[0, 1]], np.uint8), np.array([[1, 0]], np.uint8)
    differences = paired_differences(first, second, "maximize")
    np.testing.assert_array_equal(differences, [[-1.0, 1.0]])
    assert differences.dtype == np.float64


def test_scores_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="do not pair"):
        paired_differences(np.zeros((5, 10)), np.zeros((5, 11)), "maximize")


def test_smallest_effect_of_interest_follows_the_metric() -> None:
    assert default_min_effect("accuracy", 0.93) == 0.005
    assert default_min_effect("nll", 0.4) == pytest.approx(0.004)
    assert default_min_effect("mse", 250.0) == pytest.approx(2.5)


def test_diverged_classifier_scores_as_the_class_prior() -> None:
    counts, labels = [50, 30, 20, 0], [0, 1, 2, 0, 3]
    accuracy = constant_class_scores("accuracy", counts, labels)
    np.testing.assert_array_equal(accuracy, [1, 0, 0, 1, 0])
    loss = constant_class_scores("nll", counts, labels)
    np.testing.assert_allclose(np.exp(-loss), np.array([51, 31, 21, 51, 1]) / 104)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=20))
def test_class_prior_is_a_distribution_and_every_loss_is_finite(counts: list[int]) -> None:
    losses = constant_class_scores("nll", counts, range(len(counts)))
    assert math.fsum(np.exp(-losses)) == pytest.approx(1.0)
    assert np.isfinite(losses).all()


def test_diverged_regression_scores_as_the_mean() -> None:
    np.testing.assert_allclose(constant_value_scores(2.0, [1.0, 2.0, 5.0]), [1.0, 0.0, 9.0])
    several = constant_value_scores([0.0, 1.0], [[1.0, 1.0], [2.0, 3.0]])
    np.testing.assert_allclose(several, [0.5, 4.0])
