"""Take a placement to one's own model, without a service: apply, strip, diff, snippet.

apply(model, "best.json")        # in place, before torch.compile and DDP
print(diff(model, placement))    # what would change
print(snippet(model, placement)) # the same as lines of plain PyTorch
"""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from pydantic import ValidationError
from torch import nn

from dropt.spec.snippet import plain_pytorch
from dropt.spec.space import Dropout, Layout, Placement
from dropt_trainer.sites.applied import (
    apply_plain,
    apply_seeded,
    needs_seed,
    new_seed,
    schedule_at,
    strip_placement,
)
from dropt_trainer.sites.fingerprint import fingerprint
from dropt_trainer.sites.layers import describe_module
from dropt_trainer.sites.plain import own_kind, own_rates
from dropt_trainer.sites.ports import HOOK_PORTS, STATE, SiteError

__all__ = ["Change", "Changes", "apply", "diff", "set_epoch", "snippet", "strip"]

N_SUGGESTIONS = 3
HEADINGS = ("site", "layer", "was", "now")

Source: TypeAlias = Placement | Mapping[str, Any] | str | Path  # a file is JSON


class Change(NamedTuple):
    """One site of a model that a placement names or changes."""

    site: str
    layer: str
    was: str
    now: str


class Changes(tuple[Change, ...]):
    """The rows of a diff, whose text is a table."""

    def __str__(self) -> str:
        rows = [HEADINGS, *self]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
        lines = ["  ".join(text.ljust(n) for text, n in zip(r, widths, strict=True)) for r in rows]
        return "\n".join(line.rstrip() for line in lines)


def apply(
    model: nn.Module, placement: Source, *, seed: int | None = None, by_name: bool = False
) -> dict[str, str]:
    """Give a model the dropout of a placement, in place; `state_dict` keys stay.

    Dropout of torch's own modules that the placement does not list is turned off. Attributes that
    hold rates get plain numbers, and hooks drop by torch's random numbers, as one would write it
    by hand. Schedules start at epoch 0: see `set_epoch`.

    Args:
        model: as it was built, not yet compiled or wrapped.
        placement: what `/best` answers: an object, its JSON as a dict, or a file of it.
        seed: of a trial, to draw the very masks that it was trained with, forward by forward;
            then the root module counts its training forwards, and must be the one that is called.
            Without it one is drawn from torch's own generator where a kind needs counted masks:
            `locked` between the layers of an LSTM, an own attribute that is no `element`.
        by_name: take a placement of another model, as far as its names fit.

    Returns:
        With `by_name`, the sites that do not fit, each with the reason.

    Raises:
        SiteError: the placement is of another model or not readable, a site does not exist, or
            the model has a placement already; nothing is changed then.
    """
    wanted = _read(placement)
    _check_is_bare(model)
    sites, misfits = _resolve(model, wanted, by_name=by_name)
    layouts = {site: _layout(model, site, wanted) for site in sites}
    if seed is None and needs_seed(model, sites):
        seed = new_seed()
    if seed is None:
        apply_plain(model, sites, layouts)
    else:
        apply_seeded(model, sites, layouts, seed=seed)
    return misfits


def strip(model: nn.Module) -> None:
    """Take a placement out again; attributes are as before. SiteError where there is none."""
    strip_placement(model)


def set_epoch(model: nn.Module, passed: float) -> None:
    """Set the rates to what their schedules say after so many epochs; call it before each.

    Raises:
        SiteError: no placement was applied.
    """
    schedule_at(model, passed)


def diff(model: nn.Module, placement: Source, *, by_name: bool = False) -> Changes:
    """What `apply` would change, in the order of the model; raises what `apply` raises."""
    wanted = _read(placement)
    _check_is_bare(model)
    sites, _ = _resolve(model, wanted, by_name=by_name)
    order = {path: index for index, (path, _) in enumerate(model.named_modules())}
    return Changes(
        Change(site, describe_module(_owner(model, site)), _was(model, site), _now(dropout))
        for site, dropout in sorted(sites.items(), key=lambda item: order[_parts(item[0])[0]])
    )


def snippet(model: nn.Module, placement: Source, *, by_name: bool = False) -> str:
    """What `apply` does as plain PyTorch for a variable `model`; raises what `apply` raises.

    A schedule is a comment, and so is dropout that plain PyTorch has not in that kind.
    """
    wanted = _read(placement)
    _check_is_bare(model)
    sites, _ = _resolve(model, wanted, by_name=by_name)
    layouts = {site: _layout(model, site, wanted) for site in sites}
    whole = wanted.model_copy(update={"sites": sites, "layouts": layouts})
    kinds = {site: own_kind(_owner(model, site)) for site in sites}
    return plain_pytorch(whole, own_kinds=kinds)


def _read(source: Source) -> Placement:
    if isinstance(source, Placement):
        return source
    try:
        if isinstance(source, str | Path):
            source = json.loads(Path(source).read_text("utf-8"))
        return Placement.model_validate(source)
    except OSError as error:
        raise SiteError(f"The placement {error.filename} cannot be read: {error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(str(part) for part in first["loc"])
        raise SiteError(f"This is no placement: {where}: {first['msg']}.") from error
    except ValueError as error:
        raise SiteError(f"The placement file is no JSON: {error}.") from error


def _check_is_bare(model: nn.Module) -> None:
    if hasattr(model, STATE):
        raise SiteError("This model has sites already; strip it first.")


def _resolve(
    model: nn.Module, placement: Placement, *, by_name: bool
) -> tuple[dict[str, Dropout], dict[str, str]]:
    """The sites that fit, with torch's other dropout at rate 0, and why the rest does not."""
    own = fingerprint(model)
    if placement.fingerprint != own and not by_name:
        raise SiteError(
            f"The placement is of a model with fingerprint {placement.fingerprint[:12]}, this one "
            f"has {own[:12]}: build it with the same arguments, not compiled or wrapped, or pass "
            "by_name=True to take what fits."
        )
    faults = {site: _fault(model, site) for site in placement.sites}
    misfits = {site: fault for site, fault in faults.items() if fault is not None}
    if misfits and not by_name:
        raise SiteError("; ".join(f"Site '{site}': {why}" for site, why in misfits.items()))
    sites = {site: each for site, each in placement.sites.items() if site not in misfits}
    unlisted = {
        site: Dropout(rate=0.0)
        for site, rate in own_rates(model).items()
        if site not in sites and rate > 0
    }
    return {**sites, **unlisted}, misfits


def _fault(model: nn.Module, site: str) -> str | None:
    """Why a site is not in this model; None if it is."""
    path, port = _parts(site)
    modules = dict(model.named_modules())
    if ":" not in site or path not in modules:
        return f"the model has no such module.{_near(path, modules)}"
    if port in HOOK_PORTS:
        return None
    if isinstance(modules[path], nn.RNNBase) and modules[path].num_layers == 1:
        return "it has one layer, and this rate acts between layers."
    value = vars(modules[path]).get(port)
    if isinstance(value, bool) or not isinstance(value, int | float):
        rates = [name for name, other in vars(modules[path]).items() if isinstance(other, float)]
        kind = type(modules[path]).__name__
        return f"{kind} has no rate '{port}' of its own.{_near(port, rates)}"
    return None


def _near(name: str, known: Mapping[str, object] | list[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=N_SUGGESTIONS)
    return f" Near names: {', '.join(near)}." if near else ""


def _layout(model: nn.Module, site: str, placement: Placement) -> Layout:
    """What the placement says, else what a recurrent or attention module says of itself."""
    if site in placement.layouts:
        return placement.layouts[site]
    module = _owner(model, site)
    is_time_first = getattr(module, "batch_first", None) is False
    return Layout(batch_dim=1, time_dim=0) if is_time_first else Layout()


def _parts(site: str) -> tuple[str, str]:
    path, _, port = site.rpartition(":")
    return path, port


def _owner(model: nn.Module, site: str) -> nn.Module:
    return model.get_submodule(_parts(site)[0])


def _was(model: nn.Module, site: str) -> str:
    port = _parts(site)[1]
    value = 0.0 if port in HOOK_PORTS else vars(_owner(model, site))[port]
    return f"{value:g}" if value else "-"


def _now(dropout: Dropout) -> str:
    if dropout.rate == 0:
        return "-"
    schedule = dropout.schedule.label
    curve = "" if schedule == "constant" else f", {schedule}"
    return f"{dropout.rate:g} {dropout.kind}{curve}"
