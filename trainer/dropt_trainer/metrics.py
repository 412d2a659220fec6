"""Metrics of single examples, by task; the value of a split is their mean, or made of it.

Shapes as in `losses`: the leading dimensions `...` are `[B]` for one trial, `[K, B]` for a pack.
"""

from collections.abc import Callable, Mapping

from torch import Tensor
from torch.nn import functional

Metric = Callable[[Tensor, Tensor], Tensor]


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """1 where the largest logit is the label, else 0; a tie counts for the lowest class.

    Args:
        output: [..., C], logits.
        target: [...], class indices.

    Returns:
        [...], in the type of the output. An output that is not finite counts as wrong.
    """
    right = (output.argmax(-1) == target) & output.isfinite().all(-1)
    return right.to(output.dtype)


def nll(output: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood of the label, in nats.

    Args:
        output: [..., C], logits; at least one dimension of examples.
        target: [...], class indices.

    Returns:
        [...], each at least 0.
    """
    return functional.cross_entropy(output.movedim(-1, 1), target, reduction="none")


def mse(output: Tensor, target: Tensor) -> Tensor:
    """Squared error, averaged over the outputs, for output and target of [..., D]."""
    return (output - target).square().mean(-1)


def token_accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Share of the steps whose likeliest token is the one that follows.

    Args:
        output: [..., T, C], logits.
        target: [..., T], tokens.

    Returns:
        [...], in [0, 1].
    """
    return accuracy(output, target).mean(-1)


def token_nll(output: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood of a token in nats, averaged over steps; shapes as above."""
    return nll(output, target).mean(-1)


METRICS: Mapping[str, Mapping[str, Metric]] = {
    "classification": {"nll": nll, "accuracy": accuracy},
    "regression": {"mse": mse},
    # Examples have equally many steps, so the mean over examples is the mean over tokens.
    "next_token": {"nll": token_nll, "accuracy": token_accuracy, "perplexity": token_nll},
}


def summarize(metric: str, values: Tensor) -> Tensor:
    """The value of a split from those of its examples: their mean; perplexity is exp of it.

    Args:
        metric: name.
        values: [..., N], of single examples.

    Returns:
        [...], float64; perplexity is infinite above a mean of about 709 nats.
    """
    mean = values.double().mean(-1)
    return mean.exp() if metric == "perplexity" else mean
