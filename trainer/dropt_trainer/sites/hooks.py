"""Hooks of hook ports: plain objects that read the root's buffers when they are called.

They hold the root module itself, so copies and pickles of an instrumented model stay whole.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch._C import DisableTorchFunction
from torch.nn.utils.rnn import PackedSequence

from dropt_trainer.sites.ports import Layout, SiteError, apply_columns


class AtInput(ABC):
    """A forward pre-hook on the first argument, positional or by name; in training alone."""

    site: str

    @abstractmethod
    def drop(self, x: object) -> object:
        """What takes the place of the argument."""

    def __call__(
        self, module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]] | None:
        if not module.training:
            return None
        if args:
            return (self.drop(args[0]), *args[1:]), dict(kwargs)
        if not kwargs:
            raise SiteError(f"{self.site}: the module is called without an input.")
        first = next(iter(kwargs))
        return args, {**kwargs, first: self.drop(kwargs[first])}


class AtOutput(ABC):
    """A forward hook on the output, or on the first of several; in training alone."""

    @abstractmethod
    def drop(self, x: object) -> object:
        """What takes the place of the output."""

    def __call__(self, module: nn.Module, args: Any, output: object) -> object:
        if not module.training:
            return output
        if isinstance(output, tuple) and not isinstance(output, PackedSequence):
            return (self.drop(output[0]), *output[1:])
        return self.drop(output)


class SiteHook:
    """Dropout at a hook port, in training alone; counts the calls of one forward if asked to."""

    def __init__(self, root: nn.Module, column: int, site: str, *, counts_calls: bool) -> None:
        self.root = root
        self.column = column
        self.site = site
        self.counts_calls = counts_calls
        self.n_calls = 0

    def drop(self, x: object) -> Tensor | PackedSequence:
        """The input after dropout; SiteError for anything else than floating-point numbers."""
        with DisableTorchFunction():  # a function mode has nothing to do here, and costs time
            if isinstance(x, PackedSequence):
                layout = Layout(batch_sizes=x.batch_sizes)
                return x._replace(data=self.drop_tensor(x.data, layout))
            return self.drop_tensor(x)

    def drop_tensor(self, x: object, layout: Layout | None = None) -> Tensor:
        """The same for a tensor; `layout` if not the port's."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            what = f"{x.dtype} tensor" if isinstance(x, Tensor) else type(x).__name__
            raise SiteError(f"{self.site}: dropout needs a floating-point tensor, not {what}.")
        call = self.n_calls
        self.n_calls += self.counts_calls
        return apply_columns(self.root, (self.column,), x, call, layout)


class InputHook(SiteHook, AtInput):
    """Dropout of the first argument."""


class OutputHook(SiteHook, AtOutput):
    """Dropout of the output, or of the first of several."""


class RestartCounts:
    """A forward pre-hook of the root: calls are counted from 0 in each forward."""

    def __init__(self, hooks: list[SiteHook]) -> None:
        self.hooks = hooks

    def __call__(self, module: nn.Module, args: Any) -> None:
        for hook in self.hooks:
            hook.n_calls = 0
