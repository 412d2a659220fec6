"""Put dropout into a model and take it out again, without a change to its code or its keys.

instrument(model, [SitePort("layers.1:out", "element")])
set_rates(model, {"layers.1:out": 0.3})
with site_mode(model, vmapped=False):
    loss = criterion(model(x), y)
strip(model)
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from dropt_trainer.dropout.kinds import KINDS
from dropt_trainer.dropout.masks import site_key
from dropt_trainer.sites.functions import SiteMode
from dropt_trainer.sites.hooks import InputHook, OutputHook, RestartCounts, SiteHook
from dropt_trainer.sites.ports import (
    RATES,
    SEED,
    STATE,
    STEP,
    Instruments,
    SavedAttribute,
    SiteError,
    SitePort,
    TaggedRate,
    instruments_of,
    tag_of,
)

__all__ = ["SiteError", "SitePort", "instrument", "set_rates", "site_mode", "strip"]

N_SUGGESTIONS = 3
# Their fused kernels for evaluation have no batching rule, and fill padded rows with zeros.
FAST_PATHS = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)
NEED_MODE = (nn.Linear, nn.RNNBase, nn.RNNCellBase, *FAST_PATHS)


def instrument(model: nn.Module, ports: Sequence[SitePort]) -> None:
    """Put the given columns of dropout into a model, in place, all at rate 0.

    Dropout that torch's own modules (Dropout, RNNs, MultiheadAttention) hold and no port names is
    turned off: a site that a placement does not list has rate 0. An own attribute of a user's
    module is left as it is unless a port names it. In evaluation the model is what it was.

    Args:
        model: the root module; gains three non-persistent buffers, and `state_dict` no key.
        ports: at most one for each (site, kind), in the order of the columns of `_dropt_rates`.

    Raises:
        SiteError: the model is instrumented, a port is named twice, does not exist, or cannot act;
            nothing is changed then.
    """
    if hasattr(model, STATE):
        raise SiteError("This model is instrumented already; strip it first.")
    _check_ports(model, ports)
    tags = _tags(model, ports)
    state = Instruments(
        columns=tuple(ports),
        tags=tags,
        keys=tuple(site_key(port.site) for port in ports),
        needs_mode=bool(tags) or any(isinstance(m, FAST_PATHS) for m in model.modules()),
        pack_needs_mode=any(_may_need_mode(module) for module in model.modules()),
    )
    _register_buffers(model, len(ports))
    setattr(model, STATE, state)
    _add_hooks(model, state)
    _replace_attributes(model, state)


def set_rates(model: nn.Module, rates: Mapping[str, float]) -> None:
    """Set the rates of an instrumented model that is one trial; a site not named gets rate 0.

    Raises:
        SiteError: a site without a port, one with two kinds (its columns are then set through the
            buffer), or a rate outside [0, 1).
    """
    columns = instruments_of(model).columns
    sites = [port.site for port in columns]
    for site, rate in rates.items():
        if sites.count(site) != 1:
            known = ", ".join(dict.fromkeys(sites)) or "none"
            why = "has no port here" if site not in sites else "has columns of several kinds"
            raise SiteError(f"Site '{site}' {why}; instrumented are: {known}.")
        if not (math.isfinite(rate) and 0.0 <= rate < 1.0):
            raise SiteError(f"Rate {rate} of site '{site}' is not in [0, 1).")
    values = torch.tensor([rates.get(site, 0.0) for site in sites], dtype=torch.float32)
    model.get_buffer(RATES).copy_(values)


def strip(model: nn.Module) -> None:
    """Take everything out that `instrument` put in; attributes are as before."""
    state = instruments_of(model)
    for handle in state.handles:
        handle.remove()
    for saved in state.saved:
        setattr(model.get_submodule(saved.path), saved.name, saved.value)
    for name in (RATES, SEED, STEP, STATE):
        delattr(model, name)


def site_mode(model: nn.Module, *, vmapped: bool) -> AbstractContextManager[object]:
    """The context for one forward of an instrumented model, and nothing where none is needed.

    Args:
        model: the root module.
        vmapped: whether the forward runs inside `torch.func.vmap`; entered inside it as well, the
            mode has fewer calls to look at.
    """
    state = instruments_of(model)
    if state.needs_mode or (vmapped and state.pack_needs_mode):
        return SiteMode(model, vmapped=vmapped)
    return nullcontext()


def _check_ports(model: nn.Module, ports: Sequence[SitePort]) -> None:
    modules = dict(model.named_modules())
    for index, port in enumerate(ports):
        if port.path not in modules or ":" not in port.site:
            near = difflib.get_close_matches(port.path, modules, n=N_SUGGESTIONS)
            hint = f" Near names: {', '.join(near)}." if near else ""
            raise SiteError(f"Site '{port.site}': the model has no such module.{hint}")
        if port.kind not in KINDS:
            raise SiteError(f"Site '{port.site}': no kind '{port.kind}', but {', '.join(KINDS)}.")
        if any((port.site, port.kind) == (other.site, other.kind) for other in ports[:index]):
            raise SiteError(f"Site '{port.site}' with kind '{port.kind}' is named twice.")
        if not port.is_hook:
            _check_attribute(modules[port.path], port)


def _check_attribute(module: nn.Module, port: SitePort) -> None:
    value = vars(module).get(port.port)
    if isinstance(value, bool) or not isinstance(value, int | float):
        kind = type(module).__name__
        raise SiteError(f"Site '{port.site}': {kind} has no rate '{port.port}' of its own.")
    if isinstance(module, nn.RNNBase) and module.num_layers == 1:
        raise SiteError(f"Site '{port.site}': one layer only, and this rate acts between layers.")


def _tags(model: nn.Module, ports: Sequence[SitePort]) -> dict[float, TaggedRate]:
    """The columns of each attribute port, by its tag."""
    attributes = {port.site: port for port in ports if not port.is_hook}
    return {
        tag_of(number): TaggedRate(
            columns=tuple(i for i, other in enumerate(ports) if other.site == site),
            module=model.get_submodule(port.path),
        )
        for number, (site, port) in enumerate(attributes.items())
    }


def _may_need_mode(module: nn.Module) -> bool:
    """Whether a module may call what torch does badly in a pack; a user's code may call it all."""
    if isinstance(module, nn.Embedding):
        return module.padding_idx is not None
    is_torch = type(module).__module__.startswith("torch.nn.")
    return isinstance(module, NEED_MODE) or not is_torch


def _register_buffers(model: nn.Module, n_columns: int) -> None:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    values = {
        RATES: torch.zeros(n_columns, device=device),
        SEED: torch.zeros((), dtype=torch.int64, device=device),
        STEP: torch.zeros((), dtype=torch.int32, device=device),
    }
    for name, value in values.items():
        model.register_buffer(name, value, persistent=False)


def _add_hooks(model: nn.Module, state: Instruments) -> None:
    counting: list[SiteHook] = []
    for index, port in enumerate(state.columns):
        if not port.is_hook:
            continue
        module, counts = model.get_submodule(port.path), port.calls > 1
        if port.port == "in":
            before = InputHook(model, index, port.site, counts_calls=counts)
            state.handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            counting += [before] * counts
        else:
            after = OutputHook(model, index, port.site, counts_calls=counts)
            state.handles.append(module.register_forward_hook(after))
            counting += [after] * counts
    if counting:
        restart = RestartCounts(counting)
        state.handles.append(model.register_forward_pre_hook(restart, prepend=True))


def _replace_attributes(model: nn.Module, state: Instruments) -> None:
    """Tags into attribute ports, 0 into the rates of torch's modules that no port names."""
    tags = {state.columns[rate.columns[0]].site: tag for tag, rate in state.tags.items()}
    for path, module in model.named_modules():
        for name in _attribute_names(module, path, tags):
            value = vars(module)[name]
            state.saved.append(SavedAttribute(path, name, value))
            setattr(module, name, tags.get(f"{path}:{name}", 0.0))


def _attribute_names(module: nn.Module, path: str, tags: Mapping[str, float]) -> list[str]:
    """Attributes of a module to be replaced."""
    names = [name for name in vars(module) if f"{path}:{name}" in tags]
    if isinstance(module, _DropoutNd) and "p" not in names:
        names.append("p")
    if isinstance(module, nn.RNNBase | nn.MultiheadAttention) and "dropout" not in names:
        names.append("dropout")
    return names
