import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error

from dropt_trainer.metrics import METRICS, accuracy, nll


def test_metrics_average_to_the_values_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (50,), generator=generator)
    values = torch.randn(2, 50, 2, generator=generator, dtype=torch.float64)
    expected = {
        "accuracy": accuracy_score(labels, logits.argmax(-1)),
        "nll": log_loss(labels, logits.softmax(-1)),
        "mse": mean_squared_error(values[1], values[0]),
    }
    assert set(expected) == set(METRICS)
    assert float(METRICS["accuracy"](logits, labels).mean()) == pytest.approx(expected["accuracy"])
    assert float(METRICS["nll"](logits, labels).mean()) == pytest.approx(expected["nll"])
    assert float(METRICS["mse"](values[0], values[1]).mean()) == pytest.approx(expected["mse"])


def test_a_tie_counts_for_the_lowest_class() -> None:
    assert accuracy(torch.zeros(2, 3), torch.tensor([0, 1])).tolist() == [1.0, 0.0]


def test_an_output_that_is_not_finite_is_wrong() -> None:
    output = torch.full((2, 3), float("nan"))
    assert accuracy(output, torch.tensor([0, 1])).tolist() == [0.0, 0.0]


def test_metrics_take_the_outputs_of_a_pack() -> None:
    output, labels = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0)), [0] * 6
    target = torch.tensor(labels).expand(4, 6)
    assert accuracy(output, target).shape == nll(output, target).shape == (4, 6)
