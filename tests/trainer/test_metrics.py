import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error

from dropt.spec.job import ALSO_REPORTED, METRICS_OF
from dropt_trainer.metrics import METRICS, accuracy, nll, summarize


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
    of_classes, of_values = METRICS["classification"], METRICS["regression"]
    assert set(expected) == set(of_classes) | set(of_values)
    for name, metric in of_classes.items():
        assert float(metric(logits, labels).mean()) == pytest.approx(expected[name])
    assert float(of_values["mse"](values[0], values[1]).mean()) == pytest.approx(expected["mse"])


def test_every_metric_that_a_job_may_name_can_be_computed() -> None:
    for task, names in METRICS_OF.items():
        assert set(METRICS[task]) == {*names, *ALSO_REPORTED.get(task, ())}


def test_metrics_of_next_tokens_are_those_of_all_steps_as_one_classification() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(6, 4, 5, generator=generator, dtype=torch.float64)
    tokens = torch.randint(0, 5, (6, 4), generator=generator)
    flat_logits, flat = logits.reshape(24, 5), tokens.reshape(24)
    of_tokens = METRICS["next_token"]
    value = {name: float(summarize(name, m(logits, tokens))) for name, m in of_tokens.items()}
    loss = log_loss(flat, flat_logits.softmax(-1), labels=list(range(5)))
    assert value["accuracy"] == pytest.approx(accuracy_score(flat, flat_logits.argmax(-1)))
    assert value["nll"] == pytest.approx(loss)
    assert value["perplexity"] == pytest.approx(np.exp(loss))


def test_perplexity_is_exp_of_the_mean_and_no_mean_of_exp() -> None:
    values = torch.tensor([[0.0, 2.0], [1.0, 1.0]])
    assert summarize("perplexity", values).tolist() == pytest.approx([np.e, np.e])
    assert summarize("nll", values).tolist() == [1.0, 1.0]
    assert summarize("perplexity", torch.full((2,), 1e4)).item() == float("inf")


def test_a_tie_counts_for_the_lowest_class() -> None:
    assert accuracy(torch.zeros(2, 3), torch.tensor([0, 1])).tolist() == [1.0, 0.0]


def test_an_output_that_is_not_finite_is_wrong() -> None:
    output = torch.full((2, 3), float("nan"))
    assert accuracy(output, torch.tensor([0, 1])).tolist() == [0.0, 0.0]


def test_metrics_take_the_outputs_of_a_pack() -> None:
    output, labels = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0)), [0] * 6
    target = torch.tensor(labels).expand(4, 6)
    assert accuracy(output, target).shape == nll(output, target).shape == (4, 6)
