"""A loss of one's own: one number for each example."""

from torch import Tensor
from torch.nn import functional

GAMMA = 1.0


def focal(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy with easy examples turned down (Lin et al. 2017, equation 4).

    Args:
        output: [B, C], logits.
        target: [B], class indices.

    Returns:
        [B]
    """
    nll = functional.cross_entropy(output, target, reduction="none")
    return (1 - (-nll).exp()) ** GAMMA * nll
