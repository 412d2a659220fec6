"""A placement as plain PyTorch: text to paste beside a model, without dropt.

Site names, ports and kinds are enough for it, so it is made without torch.
"""

import json
from collections.abc import Iterable, Mapping
from keyword import iskeyword

from dropt.spec.inspection import Kind
from dropt.spec.space import Dropout, Layout, Placement, Schedule

HOOK_PORTS = ("in", "out")
WIDTH = 99  # of a line of the snippet, where names allow it
DROPOUT_PORT = "p"  # of torch's Dropout modules, whose output a hook can act on instead

_HEAD = (
    "# Run this once, on the model as it was searched, before torch.compile and before training.\n"
)
_INPUT_HOOK = '''

def input_hook(drop):
    """A forward pre-hook: dropout on the first input of a module."""

    def hook(module, args, kwargs):
        if args:
            return (drop(args[0], module.training), *args[1:]), kwargs
        name = next(iter(kwargs))
        return args, {**kwargs, name: drop(kwargs[name], module.training)}

    return hook
'''
_OUTPUT_HOOK = '''

def output_hook(drop):
    """A forward hook: dropout on the output of a module, the first if it has several."""

    def hook(module, args, output):
        if isinstance(output, tuple):
            return (drop(output[0], module.training), *output[1:])
        return drop(output, module.training)

    return hook
'''
_LOCKED = '''

def locked_dropout(x, rate, training, time_dim):
    """Dropout of the same units at every time step (Gal and Ghahramani 2016)."""
    shape = [1 if dim == time_dim else n for dim, n in enumerate(x.shape)]
    return x * F.dropout(x.new_ones(shape), rate, training)
'''
_PATH = '''

def drop_path(x, rate, training, batch_dim):
    """Dropout of an example's whole branch (Huang et al. 2016)."""
    shape = [n if dim == batch_dim else 1 for dim, n in enumerate(x.shape)]
    return x * F.dropout(x.new_ones(shape), rate, training)
'''
_POSITION = '''

def token_dropout(x, rate, training):
    """Dropout of all features of a position, features last."""
    return x * F.dropout(x.new_ones(*x.shape[:-1], 1), rate, training)
'''
_CHANNEL = '''

def channel_dropout(x, rate, training, batch_dim):
    """Dropout of whole channels, which lie in the dimension behind the examples."""
    shape = [n if dim in (batch_dim, batch_dim + 1) else 1 for dim, n in enumerate(x.shape)]
    return x * F.dropout(x.new_ones(shape), rate, training)
'''
_FUNCTIONS: Mapping[str, str] = {
    "input_hook(": _INPUT_HOOK,
    "output_hook(": _OUTPUT_HOOK,
    "locked_dropout(": _LOCKED,
    "drop_path(": _PATH,
    "token_dropout(": _POSITION,
    "channel_dropout(": _CHANNEL,
}
_NO_SITE = "# No dropout: nothing is to be changed.\n"


def plain_pytorch(placement: Placement, *, own_kinds: Mapping[str, Kind | None]) -> str:
    """Lines that give the variable `model` the dropout of a placement; hooks stay for good.

    A site at rate 0 turns the model's own dropout off, and needs no line elsewhere. A schedule is
    a comment: the rate is the full one.

    Args:
        placement: the sites; those of dropout that the model has already must be among them.
        own_kinds: by site, how the model's own dropout drops; None for a way that no kind has
            and `element` where nothing is said.
    """
    lines: list[str] = []
    for site, dropout in placement.sites.items():
        layout = placement.layouts.get(site, Layout())
        lines += _lines(site, dropout, layout, own_kinds.get(site, "element"))
    if not lines:
        return _NO_SITE
    text = "\n".join(lines) + "\n"
    functions = [code for name, code in _FUNCTIONS.items() if name in text]
    if "F." in text or functions:
        blank = "\n\n" if functions else "\n"
        return f"{_HEAD}import torch.nn.functional as F\n{''.join(functions)}{blank}{text}"
    return _HEAD + text


def _lines(site: str, dropout: Dropout, layout: Layout, own_kind: Kind | None) -> Iterable[str]:
    path, _, port = site.rpartition(":")
    module, note = _module(path), _schedule_note(dropout.schedule)
    if dropout.rate == 0:
        return [] if port in HOOK_PORTS else [_assignment(module, port, 0.0)]
    if port == "in":
        hook = f"input_hook({_drop(dropout, layout)})"
        return [*note, _call(f"{module}.register_forward_pre_hook", f"{hook}, with_kwargs=True")]
    if port == "out":
        hook = f"output_hook({_drop(dropout, layout)})"
        return [*note, _call(f"{module}.register_forward_hook", hook)]
    if dropout.kind == own_kind:
        return [*note, _assignment(module, port, dropout.rate)]
    if port == DROPOUT_PORT:
        hook = f"output_hook({_drop(dropout, layout)})"
        off = _assignment(module, port, 0.0)
        return [*note, off, _call(f"{module}.register_forward_hook", hook)]
    differs = f"# The search dropped by kind '{dropout.kind}' here, plain PyTorch by '{own_kind}'."
    return [*note, differs, _assignment(module, port, dropout.rate)]


def _call(function: str, arguments: str) -> str:
    line = f"{function}({arguments})"
    return line if len(line) <= WIDTH else f"{function}(\n    {arguments}\n)"


def _drop(dropout: Dropout, layout: Layout) -> str:
    """The function that a hook calls with a tensor and whether the module trains."""
    rate, batch, time = f"{dropout.rate:.10g}", layout.batch_dim, layout.time_dim
    maps = f"F.dropout2d(x, {rate}, on)"
    if batch:
        maps = f"channel_dropout(x, {rate}, on, {batch})"
    calls: dict[Kind, str] = {
        "element": f"F.dropout(x, {rate}, on)",
        "channel": maps,
        "locked": f"locked_dropout(x, {rate}, on, {time})",
        "path": f"drop_path(x, {rate}, on, {batch})",
        "token": f"token_dropout(x, {rate}, on)",
        "alpha": f"F.alpha_dropout(x, {rate}, on)",
    }
    return f"lambda x, on: {calls[dropout.kind]}"


def _module(path: str) -> str:
    """`model.cls`, or `model.get_submodule("cls.2")` where a part of the path is no name."""
    parts = path.split(".") if path else []
    if all(part.isidentifier() and not iskeyword(part) for part in parts):
        return ".".join(["model", *parts])
    return f"model.get_submodule({json.dumps(path)})"


def _assignment(module: str, name: str, rate: float) -> str:
    if name.isidentifier() and not iskeyword(name):
        return f"{module}.{name} = {rate:.10g}" if rate else f"{module}.{name} = 0.0"
    return f"setattr({module}, {json.dumps(name)}, {rate:.10g})"


def _schedule_note(schedule: Schedule) -> list[str]:
    curves = {
        "constant": None,
        "early": f"falls linearly from this rate to 0 at epoch {schedule.until or 0:g}",
        "late": f"is 0 up to epoch {schedule.start or 0:g}, then this rate",
        "ramp": f"rises linearly from 0 to this rate at epoch {schedule.until or 0:g}",
    }
    curve = curves[schedule.name]
    return [] if curve is None else [f"# Schedule '{schedule.name}': it {curve}."]
