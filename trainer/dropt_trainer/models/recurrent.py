"""LSTM and GRU: recurrent layers over a sequence, then one dense layer.

The dropout between the layers is torch's own attribute (`nn.LSTM.dropout`), at 0 until it is
searched; what goes in and what comes out can be dropped as well, by one mask for all steps.
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from dropt.spec.job import Task
from dropt_trainer.models.sequences import (
    Inputs,
    as_vectors,
    check_next_token,
    mean_over_steps,
    sequence_shape,
    steps_of,
)

Hidden = Annotated[int, Field(ge=1, le=8_192)]
Depth = Annotated[int, Field(ge=1, le=16)]
Width = Annotated[int, Field(ge=1, le=8_192)]


class Recurrent(nn.Module):
    """Recurrent layers and a head on the mean of their states, or on each state."""

    def __init__(
        self, embedding: nn.Embedding | None, rnn: nn.LSTM | nn.GRU, head: nn.Linear, task: Task
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.rnn = rnn
        self.head = head
        self.at_each_step = task == "next_token"

    def forward(self, inputs: Inputs) -> Tensor:
        """Map sequences to [B, n_outputs], or [B, T, n_outputs] where the next token is told.

        Args:
            inputs: [B, T] token ids, [B, T] numbers or [B, T, D] vectors; or those as `x` beside
                a `mask` [B, T]. Steps that are masked out count for no mean, but a bidirectional
                layer reads them.
        """
        steps, mask = steps_of(inputs)
        steps = as_vectors(steps) if self.embedding is None else self.embedding(steps)
        states: Tensor = self.rnn(steps)[0]
        if not self.at_each_step:
            states = mean_over_steps(states, mask)
        out: Tensor = self.head(states)
        return out


def lstm(
    *,
    input_shape: tuple[int, ...],
    n_outputs: int,
    task: Task,
    n_tokens: int | None,
    hidden: Hidden = 32,
    layers: Depth = 2,
    bidirectional: bool = False,
    embedding: Width = 16,
) -> Recurrent:
    """A long short-term memory (Hochreiter and Schmidhuber 1997).

    Args:
        input_shape: [T] for token ids or numbers, [T, D] for vectors.
        n_outputs: width of the output layer.
        task: the next token is told at each step, else one output for the whole sequence.
        n_tokens: of the vocabulary; None for numbers and vectors.
        hidden: units of each layer, of each direction.
        layers: how many.
        bidirectional: each layer also reads from the end; not where the next token is told.
        embedding: width of the vectors that tokens become; without tokens of no effect.

    Raises:
        ValueError: inputs that are no sequences, or a next token told from behind.
    """
    return _recurrent(
        "lstm", nn.LSTM, input_shape, n_outputs, task, n_tokens, hidden=hidden, layers=layers,
        bidirectional=bidirectional, embedding=embedding,
    )  # fmt: skip


def gru(
    *,
    input_shape: tuple[int, ...],
    n_outputs: int,
    task: Task,
    n_tokens: int | None,
    hidden: Hidden = 32,
    layers: Depth = 2,
    bidirectional: bool = False,
    embedding: Width = 16,
) -> Recurrent:
    """Gated recurrent units (Cho et al. 2014); arguments and errors as `lstm`."""
    return _recurrent(
        "gru", nn.GRU, input_shape, n_outputs, task, n_tokens, hidden=hidden, layers=layers,
        bidirectional=bidirectional, embedding=embedding,
    )  # fmt: skip


def _recurrent(
    name: str,
    cell: type[nn.LSTM] | type[nn.GRU],
    input_shape: tuple[int, ...],
    n_outputs: int,
    task: Task,
    n_tokens: int | None,
    *,
    hidden: int,
    layers: int,
    bidirectional: bool,
    embedding: int,
) -> Recurrent:
    _, n_features = sequence_shape(name, input_shape, n_tokens)
    check_next_token(name, task, n_tokens)
    if bidirectional and task == "next_token":
        raise ValueError(
            f"Model '{name}' with bidirectional=true would read the token that it is to tell; "
            "use bidirectional=false for this data set."
        )
    embedder = None if n_tokens is None else nn.Embedding(n_tokens, embedding)
    rnn = cell(
        embedding if embedder is not None else n_features, hidden, layers, batch_first=True,
        bidirectional=bidirectional,
    )  # fmt: skip
    head = nn.Linear(hidden * (2 if bidirectional else 1), n_outputs)
    return Recurrent(embedder, rnn, head, task)
