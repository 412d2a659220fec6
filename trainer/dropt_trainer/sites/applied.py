"""How a placement lives in a model of its own: hooks and numbers, or counted masks of a seed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.hooks import RemovableHandle

from dropt.spec.space import Dropout, Layout
from dropt_trainer.dropout.masks import mask_seed
from dropt_trainer.schedules import Schedule, factor
from dropt_trainer.sites.instrument import instrument, set_rates, site_mode
from dropt_trainer.sites.instrument import strip as strip_instruments
from dropt_trainer.sites.plain import PlainDropout, PlainInput, PlainOutput, own_kind
from dropt_trainer.sites.ports import (
    HOOK_PORTS,
    SEED,
    STATE,
    STEP,
    SavedAttribute,
    SiteError,
    SitePort,
    instruments_of,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

CONDUCTOR = "_dropt_conductor"  # attribute of the root module, beside its instruments
COUNTED = 2  # calls of a port: its masks are told apart however often it runs
MAX_SEED = 2**53

Sites = Mapping[str, Dropout]
Layouts = Mapping[str, Layout]


@dataclass
class Applied:
    """What a placement has put into a model, under the name that instruments have."""

    sites: Sites
    hooks: dict[str, PlainDropout] = field(default_factory=dict)
    handles: list[RemovableHandle] = field(default_factory=list)
    saved: list[SavedAttribute] = field(default_factory=list)


class Conductor:
    """Counts the training forwards of a root module, and enters the function mode around each."""

    def __init__(self, sites: Sites) -> None:
        self.sites = sites
        self.entered: list[AbstractContextManager[object]] = []

    def begin(self, root: nn.Module, args: object) -> None:
        """A forward pre-hook. The step of the first forward is 0."""
        if not root.training:
            return
        # A new tensor: the way back of an earlier forward still needs the old one.
        setattr(root, STEP, root.get_buffer(STEP) + 1)
        mode = site_mode(root, vmapped=False)
        mode.__enter__()
        self.entered.append(mode)

    def end(self, root: nn.Module, args: object, output: object) -> None:
        """A forward hook, called after an exception as well."""
        if self.entered:
            self.entered.pop().__exit__(None, None, None)


def needs_seed(model: nn.Module, sites: Sites) -> bool:
    """Whether a site's own code drops in another way than its kind, and no hook can instead."""
    for site, dropout in sites.items():
        module = _owner(model, site)
        is_own = _port(site) not in HOOK_PORTS and not isinstance(module, _DropoutNd)
        if is_own and dropout.rate > 0 and own_kind(module) != dropout.kind:
            return True
    return False


def new_seed() -> int:
    """A seed from torch's own generator, which is the user's to set."""
    return int(torch.randint(MAX_SEED, ()).item())


def apply_plain(model: nn.Module, sites: Sites, layouts: Layouts) -> None:
    """Numbers into attributes; hooks elsewhere, which drop by torch's random numbers."""
    state = Applied(dict(sites))
    for site, dropout in sites.items():
        if _port(site) not in HOOK_PORTS:
            _save(model, site, state.saved)
        if dropout.rate > 0 and not _is_number(model, site, dropout):
            _add_hook(state, model, site, layouts[site])
    setattr(model, STATE, state)
    schedule_at(model, 0.0)


def apply_seeded(model: nn.Module, sites: Sites, layouts: Layouts, *, seed: int) -> None:
    """The sites as a trainer has them, with masks that are functions of seed, site and step."""
    used = {site: dropout for site, dropout in sites.items() if dropout.rate > 0}
    instrument(model, [_site_port(site, each, layouts[site]) for site, each in used.items()])
    state = instruments_of(model)
    for site in sites.keys() - used.keys():
        if _port(site) not in HOOK_PORTS:
            _save(model, site, state.saved)
    with torch.no_grad():
        model.get_buffer(SEED).fill_(mask_seed(seed))
        model.get_buffer(STEP).fill_(-1)
    conductor = Conductor(used)
    setattr(model, CONDUCTOR, conductor)
    state.handles += [
        model.register_forward_pre_hook(conductor.begin, prepend=True),
        model.register_forward_hook(conductor.end, always_call=True),
    ]
    schedule_at(model, 0.0)


def schedule_at(model: nn.Module, passed: float) -> None:
    """Set every rate to what its schedule says after so many epochs.

    Raises:
        SiteError: no placement was applied to the model.
    """
    state, conductor = getattr(model, STATE, None), getattr(model, CONDUCTOR, None)
    if isinstance(conductor, Conductor):
        set_rates(model, {site: rate_at(each, passed) for site, each in conductor.sites.items()})
    elif isinstance(state, Applied):
        for site, dropout in state.sites.items():
            rate = rate_at(dropout, passed)
            if site in state.hooks:
                state.hooks[site].rate = rate
            elif _port(site) not in HOOK_PORTS:
                setattr(_owner(model, site), _port(site), rate)
    else:
        raise SiteError("No placement was applied to this model.")


def strip_placement(model: nn.Module) -> None:
    """Take out what a placement or `instrument` put in; SiteError where there is nothing."""
    state = getattr(model, STATE, None)
    if not isinstance(state, Applied):
        strip_instruments(model)
        if hasattr(model, CONDUCTOR):
            delattr(model, CONDUCTOR)
        return
    for handle in state.handles:
        handle.remove()
    for saved in state.saved:
        setattr(model.get_submodule(saved.path), saved.name, saved.value)
    delattr(model, STATE)


def rate_at(dropout: Dropout, passed: float) -> float:
    """The rate of a site after so many epochs."""
    asked = dropout.schedule
    at = asked.start if asked.name == "late" else asked.until
    curve: Tensor = factor(
        Schedule(asked.name, at or 0.0), torch.tensor(passed, dtype=torch.float64)
    )
    return dropout.rate * curve.item()


def _add_hook(state: Applied, model: nn.Module, site: str, layout: Layout) -> None:
    """A hook at a hook port; at a Dropout module of another kind, in place of it."""
    dropout, module = state.sites[site], _owner(model, site)
    dims = {"batch_dim": layout.batch_dim, "time_dim": layout.time_dim}
    if _port(site) == "in":
        before = PlainInput(site, dropout.kind, **dims)
        state.handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        state.hooks[site] = before
        return
    after = PlainOutput(site, dropout.kind, **dims)
    state.handles.append(module.register_forward_hook(after))
    state.hooks[site] = after
    if _port(site) != "out":
        setattr(module, _port(site), 0.0)


def _is_number(model: nn.Module, site: str, dropout: Dropout) -> bool:
    """Whether a rate goes into the model's own attribute, whose code drops by its kind."""
    return _port(site) not in HOOK_PORTS and own_kind(_owner(model, site)) == dropout.kind


def _save(model: nn.Module, site: str, saved: list[SavedAttribute]) -> None:
    """Note an attribute as it is, once, and set it to 0."""
    path, port = _path(site), _port(site)
    if all((path, port) != (known.path, known.name) for known in saved):
        saved.append(SavedAttribute(path, port, vars(_owner(model, site))[port]))
        setattr(_owner(model, site), port, 0.0)


def _site_port(site: str, dropout: Dropout, layout: Layout) -> SitePort:
    return SitePort(
        site, dropout.kind, calls=COUNTED, time_dim=layout.time_dim, batch_dim=layout.batch_dim
    )


def _path(site: str) -> str:
    return site.rpartition(":")[0]


def _port(site: str) -> str:
    return site.rpartition(":")[2]


def _owner(model: nn.Module, site: str) -> nn.Module:
    return model.get_submodule(_path(site))
