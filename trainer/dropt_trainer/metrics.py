"""Metrics of single examples; the value of a split is their mean.

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


METRICS: Mapping[str, Metric] = {"accuracy": accuracy, "nll": nll, "mse": mse}
