"""The stacked state of a pack: row k of every tensor here belongs to one trial."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dropt_trainer.sites.ports import RATES, SEED, STEP


@dataclass(frozen=True)
class Window:
    """The first n rows, as a model and an optimizer see them.

    Attributes:
        parameters: by name, [n, *shape], views of the weights and leaves of the graph.
        gradients: in the same order, views of the gradients.
        buffers: by name, [n, *shape]; rates, seed and step of the masks are among them.
    """

    parameters: dict[str, Tensor]
    gradients: list[Tensor]
    buffers: dict[str, Tensor]


class Rows:
    """K rows of weights, gradients, buffers, and of what the masks depend on.

    Parameters with `requires_grad=False` have no rows: all trials share those of the model.

    Attributes:
        weight: [K, P], contiguous; each parameter is a strided view [K, *shape] of it.
        gradient: [K, P].
        buffers: by name, [K, *shape].
        rates: [K, S], float32.
        seed: [K], int64, of the masks.
        step: [K], int32, training forwards so far.
        penalised: [P], Boolean, parameters of two or more dimensions.
    """

    def __init__(self, model: nn.Module, *, n_slots: int, n_columns: int) -> None:
        """Room for trials of a model that is not instrumented.

        Raises:
            ValueError: the model has nothing to train.
        """
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not trained:
            raise ValueError(f"{type(model).__name__} has no parameter with requires_grad")
        device = next(iter(trained.values())).device
        self._shapes = {name: p.shape for name, p in trained.items()}
        self._frozen = {n: p.detach() for n, p in model.named_parameters() if not p.requires_grad}
        self._plain_names = _plain_names(model)
        size = sum(p.numel() for p in trained.values())
        self.weight = next(iter(trained.values())).new_zeros(n_slots, size).detach()
        self.gradient = torch.zeros_like(self.weight)
        self.buffers = {n: b.new_zeros(n_slots, *b.shape) for n, b in model.named_buffers()}
        self.rates = torch.zeros(n_slots, n_columns, device=device)
        self.seed = torch.zeros(n_slots, dtype=torch.int64, device=device)
        self.step = torch.zeros(n_slots, dtype=torch.int32, device=device)
        self.penalised = torch.cat(
            [torch.full((p.numel(),), p.ndim >= 2, device=device) for p in trained.values()]
        )
        self._kept = [torch.zeros_like(tensor) for tensor in self._trained_state]
        self._windows: dict[int, Window] = {}

    @property
    def all(self) -> Sequence[Tensor]:
        """Everything of a trial that is stored here, [K, ...] each; gradients do not last."""
        return (*self._trained_state, *self._kept, self.rates, self.seed, self.step)

    @property
    def _trained_state(self) -> Sequence[Tensor]:
        """What training changes in a model."""
        return (self.weight, *self.buffers.values())

    def window(self, n_rows: int) -> Window:
        """The first `n_rows` rows."""
        if n_rows not in self._windows:
            weights = self._views(self.weight[:n_rows])
            self._windows[n_rows] = Window(
                {name: view.detach().requires_grad_() for name, view in weights.items()},
                list(self._views(self.gradient[:n_rows]).values()),
                {name: tensor[:n_rows] for name, tensor in self._named_buffers().items()},
            )
        return self._windows[n_rows]

    def select(self, rows: Sequence[int]) -> Window:
        """Copies of these rows, to evaluate with."""
        index = torch.tensor(rows, dtype=torch.int64, device=self.weight.device)
        buffers = {name: tensor[index] for name, tensor in self._named_buffers().items()}
        return Window(self._views(self.weight[index]), [], buffers)

    def write(self, row: int, model: nn.Module) -> None:
        """Put the initial state of a model into a row.

        Raises:
            ValueError: a frozen parameter differs from the one that the pack shares.
        """
        parameters = dict(model.named_parameters())
        for name, frozen in self._frozen.items():
            if not torch.equal(parameters[name].to(frozen), frozen):
                raise ValueError(f"frozen parameter {name!r} depends on the seed; trials share it")
        for name, view in self._views(self.weight[row : row + 1]).items():
            view[0].copy_(parameters[name].detach())
        for name, buffer in model.named_buffers():
            self.buffers[name][row].copy_(buffer)

    def read(self, row: int) -> dict[str, Tensor]:
        """The `state_dict` of the user's own model with the weights of a row."""
        return {key: t.clone() for key, t in self._plain(row).items()}

    def restore(self, row: int, state: Mapping[str, Tensor]) -> None:
        """Put a `state_dict` into a row, the opposite of `read`."""
        for key, tensor in self._plain(row).items():
            tensor.copy_(state[key])

    def keep(self, rows: Sequence[int]) -> None:
        """Remember weights and buffers of these rows, in place of what was kept."""
        _copy_rows(self._trained_state, self._kept, rows)

    def bring_back(self, rows: Sequence[int]) -> None:
        """Make weights and buffers of these rows what was kept of them."""
        _copy_rows(self._kept, self._trained_state, rows)

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        """Each parameter [n, *shape] of rows [n, P]."""
        columns = torch.split(flat, [shape.numel() for shape in self._shapes.values()], dim=1)
        named = zip(self._shapes.items(), columns, strict=True)
        return {name: part.view(len(flat), *shape) for (name, shape), part in named}

    def _named_buffers(self) -> dict[str, Tensor]:
        return {**self.buffers, RATES: self.rates, SEED: self.seed, STEP: self.step}

    def _plain(self, row: int) -> dict[str, Tensor]:
        """By the keys of the user's model: views of a row, and the frozen parameters."""
        views = {name: view[0] for name, view in self._views(self.weight[row : row + 1]).items()}
        buffers = {name: tensor[row] for name, tensor in self.buffers.items()}
        named = {**views, **buffers, **self._frozen}
        return {key: named[name] for key, name in self._plain_names.items()}


def _plain_names(model: nn.Module) -> dict[str, str]:
    """Each key of the model's `state_dict`, and the first name of the tensor behind it.

    A tied weight has two keys and one row.
    """
    first = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
    return {key: first[id(t)] for key, t in model.state_dict(keep_vars=True).items()}


def _copy_rows(sources: Sequence[Tensor], targets: Sequence[Tensor], rows: Sequence[int]) -> None:
    for source, target in zip(sources, targets, strict=True):
        index = torch.tensor(rows, dtype=torch.int64, device=target.device)
        target[index] = source[index]
