"""Ports of an instrumented model: what it keeps on its root module, and how a column acts.

Everything that varies per trial is in three non-persistent buffers of the root module, so that
`functional_call`, `vmap`, `deepcopy` and pickling follow by themselves. A column is one (site,
kind): a site that may act in two ways has two columns, of which a trial uses one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dropt_trainer.dropout.kinds import apply_kind, apply_kind_to_packed

RATES = "_dropt_rates"  # float32 [S], one per column
SEED = "_dropt_seed"  # int64 []
STEP = "_dropt_step"  # int32 [], training forwards so far
STATE = "_dropt"  # attribute of the root module that holds its Instruments
HOOK_PORTS = ("in", "out")  # the others name an attribute that holds a rate
TAG = 2.0**-40  # see tag_of


class SiteError(ValueError):
    """A site does not exist in this model, or dropout cannot act there."""


@dataclass(frozen=True)
class SitePort:
    """One (site, kind) column of rates.

    Args:
        site: `<module path>:<port>`; the port is `in`, `out`, or an attribute that holds a rate.
        kind: see `apply_kind`.
        calls: runs in one forward; each has masks of its own under the same rate.
        time_dim: dimension of time steps, for kind `locked`; None where each call is one step.
        batch_dim: dimension of examples, for kinds `path` and `channel`.
    """

    site: str
    kind: str
    calls: int = 1
    time_dim: int | None = None
    batch_dim: int = 0

    @property
    def path(self) -> str:
        """Path of the module; empty for the root."""
        return self.site.rpartition(":")[0]

    @property
    def port(self) -> str:
        """`in`, `out` or the name of an attribute."""
        return self.site.rpartition(":")[2]

    @property
    def is_hook(self) -> bool:
        """Whether a hook acts here, and not the model's own dropout."""
        return self.port in HOOK_PORTS


@dataclass(frozen=True)
class SavedAttribute:
    """An attribute as it was before instrumenting."""

    path: str
    name: str
    value: float


@dataclass(frozen=True)
class TaggedRate:
    """An attribute that holds a tag.

    Attributes:
        columns: of its port.
        module: that has the attribute; where it is in evaluation, nothing drops.
    """

    columns: tuple[int, ...]
    module: nn.Module


@dataclass
class Instruments:
    """What `strip` must undo, and what hooks and the function mode look up."""

    columns: tuple[SitePort, ...]
    tags: Mapping[float, TaggedRate]
    keys: tuple[int, ...]  # `site_key` of each column
    handles: list[RemovableHandle] = field(default_factory=list)
    saved: list[SavedAttribute] = field(default_factory=list)
    needs_mode: bool = False
    pack_needs_mode: bool = False


def tag_of(number: int) -> float:
    """The number that stands in an attribute in place of a rate, and names its port.

    Above 0, so that code which asks `if self.dropout > 0` still calls; exact in float32; a plain
    float, which pickles; and a rate that changes nothing should it reach a dropout by itself.
    """
    return (number + 1) * TAG


def instruments_of(model: nn.Module) -> Instruments:
    """The instruments of a root module; SiteError where there are none."""
    state = getattr(model, STATE, None)
    if not isinstance(state, Instruments):
        raise SiteError("This model is not instrumented.")
    return state


@dataclass(frozen=True)
class Layout:
    """Where a tensor has its examples and time steps.

    Attributes:
        batch_dim: dimension of examples.
        time_dim: dimension of time steps.
        batch_sizes: of a PackedSequence, of which the tensor is the data; the others do not count.
    """

    batch_dim: int = 0
    time_dim: int | None = None
    batch_sizes: Tensor | None = None


def apply_columns(
    root: nn.Module, columns: Sequence[int], x: Tensor, call: int, layout: Layout | None = None
) -> Tensor:
    """Dropout of the given columns, one after the other; those at rate 0 are the identity.

    Args:
        root: an instrumented model.
        columns: of one port.
        x: the tensor at the port.
        call: how often the port has run in this forward.
        layout: of x, where the caller knows it better than the port.
    """
    buffers, state = root._buffers, instruments_of(root)
    rates, seed, step = buffers[RATES], buffers[SEED], buffers[STEP]
    assert rates is not None, "a buffer that strip removed"
    assert seed is not None, "a buffer that strip removed"
    assert step is not None, "a buffer that strip removed"
    for index in columns:
        port, key, rate = state.columns[index], state.keys[index], rates[index]
        at = layout or port
        if layout is not None and layout.batch_sizes is not None:
            x = apply_kind_to_packed(
                x, layout.batch_sizes, port.kind, rate, seed, step, site=key, call=call
            )
        else:
            kind = port.kind
            if kind == "locked" and at.time_dim is None:  # one step per call: the same masks
                kind, call = "element", 0
            x = apply_kind(
                x, kind, rate, seed, step, site=key, call=call, batch_dim=at.batch_dim,
                time_dim=at.time_dim,
            )  # fmt: skip
    return x
