"""Trainer of dropt: sites, masks and fused packs for PyTorch modules.

What a user imports: `inspect_model` looks at a model, `apply` gives it the dropout of a placement,
`set_epoch` follows its schedules, `strip` takes it out, `diff` and `snippet` show it.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dropt_trainer.inspect import inspect_model as inspect_model
    from dropt_trainer.sites.export import apply as apply
    from dropt_trainer.sites.export import diff as diff
    from dropt_trainer.sites.export import set_epoch as set_epoch
    from dropt_trainer.sites.export import snippet as snippet
    from dropt_trainer.sites.export import strip as strip

_MODULES = {
    "inspect_model": "dropt_trainer.inspect",
    **dict.fromkeys(
        ("apply", "diff", "set_epoch", "snippet", "strip"), "dropt_trainer.sites.export"
    ),
}


def __getattr__(name: str) -> object:
    """The public names, imported when they are used: `dropt-worker --help` needs no torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
