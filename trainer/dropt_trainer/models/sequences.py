"""Inputs of sequence models: vectors or token ids, with or without a mask of real steps."""

import math

import torch
from torch import Tensor, nn

from dropt.spec.job import Task

Inputs = Tensor | dict[str, Tensor]
STEPS, MASK = "x", "mask"  # names of the steps and of the real ones, where there are several


def steps_of(inputs: Inputs) -> tuple[Tensor, Tensor | None]:
    """The steps [B, T, ...] and, where there is one, the mask [B, T] of the real ones.

    Raises:
        ValueError: several tensors, none of which is called `x`.
    """
    if not isinstance(inputs, dict):
        return inputs, None
    if STEPS not in inputs:
        raise ValueError(
            f"the inputs are {sorted(inputs)}: a tensor {STEPS!r} with the steps is missing"
        )
    return inputs[STEPS], inputs.get(MASK)


def sequence_shape(
    name: str, input_shape: tuple[int, ...], n_tokens: int | None
) -> tuple[int, int]:
    """Steps and features of the data; token ids have 0 features, a series of numbers has 1.

    Raises:
        ValueError: an example is no sequence.
    """
    if len(input_shape) == 1:
        return input_shape[0], 1 if n_tokens is None else 0
    if len(input_shape) == 2 and n_tokens is None:
        return input_shape[0], input_shape[1]
    kind = "token ids" if n_tokens is not None else "numbers"
    raise ValueError(
        f"Model '{name}' needs sequences: [T] token ids, [T] numbers or [T, D] vectors; the data "
        f"has {kind} of shape {list(input_shape)}. Use model 'cnn' or 'resnet' for images."
    )


def as_vectors(steps: Tensor) -> Tensor:
    """[B, T, D] of vectors, or of a series of numbers [B, T]."""
    return steps.unsqueeze(-1) if steps.ndim == 2 else steps


def mean_over_steps(states: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of [B, T, H] over the real steps: [B, H]; 0 for an example that has none."""
    if mask is None:
        return states.mean(1)
    weight = mask.to(states.dtype).unsqueeze(-1)
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1)


def check_next_token(name: str, task: Task, n_tokens: int | None) -> None:
    """Raises ValueError where the next token is to be told of inputs that are no tokens."""
    if task == "next_token" and n_tokens is None:
        raise ValueError(f"Model '{name}' tells the next token of token ids; the data has none.")


class Embedding(nn.Module):
    """What each step is, and where it stands: [B, T] ids or [B, T, D] vectors to [B, T, H]."""

    def __init__(self, n_steps: int, n_features: int, n_tokens: int | None, width: int) -> None:
        super().__init__()
        self.content = (
            nn.Linear(n_features, width) if n_tokens is None else nn.Embedding(n_tokens, width)
        )
        # As large as the embeddings of torch, N(0, 1), so that neither drowns the other.
        self.position = nn.Parameter(torch.randn(n_steps, width) / math.sqrt(width))
        if isinstance(self.content, nn.Embedding):
            nn.init.normal_(self.content.weight, std=1 / math.sqrt(width))

    def forward(self, steps: Tensor) -> Tensor:
        """Embed the steps; fewer than `n_steps` are the first ones."""
        content: Tensor = self.content(steps)
        return content + self.position[: content.shape[1]]
