"""Ports of an instrumented model: what it keeps on its root module, and how a column acts.

Everything that varies per trial is in three non-persistent buffers of the root module, so that
`functional_call`, `vmap`, `deepcopy` and pickling follow by themselves. A column is one (site,
kind): a site that may act in two ways has two columns, of which a trial uses one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dropt_trainer.dropout.kinds import apply_kind
from dropt_trainer.dropout.masks import site_key

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
        time_dim: dimension of time steps, for kind `locked`.
    """

    site: str
    kind: str
    calls: int = 1
    time_dim: int | None = None

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


@dataclass
class Instruments:
    """What `strip` must undo, and what hooks and the function mode look up."""

    columns: tuple[SitePort, ...]
    tags: Mapping[float, tuple[int, ...]]  # columns of an attribute port, by the tag in its place
    handles: list[RemovableHandle] = field(default_factory=list)
    saved: list[SavedAttribute] = field(default_factory=list)
    vmap_needs_mode: bool = False


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


def apply_columns(root: nn.Module, columns: Sequence[int], x: Tensor, call: int) -> Tensor:
    """Dropout of the given columns, one after the other; those at rate 0 are the identity."""
    buffers, state = root._buffers, instruments_of(root)
    rates, seed, step = buffers[RATES], buffers[SEED], buffers[STEP]
    assert rates is not None, "a buffer that strip removed"
    assert seed is not None, "a buffer that strip removed"
    assert step is not None, "a buffer that strip removed"
    for index in columns:
        port = state.columns[index]
        key = site_key(port.site)
        x = apply_kind(
            x, port.kind, rates[index], seed, step, site=key, call=call, time_dim=port.time_dim
        )
    return x
