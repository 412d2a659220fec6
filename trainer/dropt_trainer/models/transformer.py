"""A transformer encoder with norms in front (Vaswani et al. 2017; Xiong et al. 2020)."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from dropt.spec.job import Task
from dropt_trainer.models.sequences import (
    Embedding,
    Inputs,
    as_vectors,
    check_next_token,
    mean_over_steps,
    sequence_shape,
    steps_of,
)


class Attention(nn.Module):
    """Self-attention of several heads; `dropout` is the rate on its probabilities."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = 0.0
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, allowed: Tensor | None) -> Tensor:
        """Map [B, T, H] to the same; `allowed` [..., T, T] says which step may see which."""
        n_examples, n_steps, width = x.shape
        parts = self.in_proj(x).view(n_examples, n_steps, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        context = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=allowed, dropout_p=self.dropout if self.training else 0.0
        )
        out: Tensor = self.out_proj(context.transpose(1, 2).reshape(x.shape))
        return out


class Block(nn.Module):
    """Attention and two dense layers, each a branch with a norm in front."""

    def __init__(self, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward), nn.GELU(), nn.Linear(feedforward, width)
        )

    def forward(self, x: Tensor, allowed: Tensor | None) -> Tensor:
        """Map [B, T, H] to the same."""
        x = x + self.attention(self.norm1(x), allowed)
        out: Tensor = x + self.feedforward(self.norm2(x))
        return out


class Transformer(nn.Module):
    """Embedding, blocks, norm, and a head on the mean of the states, or on each state."""

    def __init__(
        self, embedding: Embedding, blocks: nn.ModuleList, head: nn.Linear, task: Task
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.blocks = blocks
        self.norm = nn.LayerNorm(head.in_features)
        self.head = head
        self.takes_vectors = isinstance(embedding.content, nn.Linear)
        self.at_each_step = task == "next_token"

    def forward(self, inputs: Inputs) -> Tensor:
        """Map sequences to [B, n_outputs], or [B, T, n_outputs] where the next token is told.

        Args:
            inputs: [B, T] token ids, [B, T] numbers or [B, T, D] vectors; or those as `x` beside
                a `mask` [B, T] of the steps that may be seen.
        """
        steps, mask = steps_of(inputs)
        states = self.embedding(as_vectors(steps) if self.takes_vectors else steps)
        allowed = self._allowed(states, mask)
        for block in self.blocks:
            states = block(states, allowed)
        states = self.norm(states)
        if not self.at_each_step:
            states = mean_over_steps(states, mask)
        out: Tensor = self.head(states)
        return out

    def _allowed(self, states: Tensor, mask: Tensor | None) -> Tensor | None:
        """Which step may see which: real ones, and not what comes later where that is told."""
        seen = None if mask is None else mask.bool()[:, None, None, :]
        if not self.at_each_step:
            return seen
        n_steps = states.shape[1]
        earlier = torch.ones(n_steps, n_steps, dtype=torch.bool, device=states.device).tril()
        return earlier if seen is None else seen & earlier


def transformer(
    *,
    input_shape: tuple[int, ...],
    n_outputs: int,
    task: Task,
    n_tokens: int | None,
    width: Annotated[int, Field(ge=1, le=8_192)] = 32,
    depth: Annotated[int, Field(ge=1, le=64)] = 1,
    heads: Annotated[int, Field(ge=1, le=128)] = 2,
    feedforward: Annotated[int, Field(ge=1, le=32_768)] = 64,
) -> Transformer:
    """A transformer encoder; where the next token is told, no step sees a later one.

    Args:
        input_shape: [T] for token ids or numbers, [T, D] for vectors; T positions are learnt.
        n_outputs: width of the output layer.
        task: the next token is told at each step, else one output for the whole sequence.
        n_tokens: of the vocabulary; None for numbers and vectors.
        width: of the states; a multiple of `heads`.
        depth: blocks.
        heads: of each attention.
        feedforward: width of the dense layer between the two of a block.

    Raises:
        ValueError: inputs that are no sequences, or a width that the heads do not divide.
    """
    n_steps, n_features = sequence_shape("transformer", input_shape, n_tokens)
    check_next_token("transformer", task, n_tokens)
    if width % heads:
        raise ValueError(f'Argument "width": {width} is no multiple of heads, which is {heads}.')
    blocks = nn.ModuleList(Block(width, heads, feedforward) for _ in range(depth))
    return Transformer(
        Embedding(n_steps, n_features, n_tokens, width), blocks, nn.Linear(width, n_outputs), task
    )
