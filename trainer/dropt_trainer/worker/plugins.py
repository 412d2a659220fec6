"""The user's own models, data sets and losses: installed by entry points, or named in a file.

An operator installs a package with entry points in the groups below; its names can then be used in
any job. `FILE.py:NAME` is for a run of one's own: the code comes from the one who starts it.
"""

import functools
import hashlib
import importlib.util
import logging
import re
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from torch import nn

from dropt.errors import DroptError
from dropt.spec.job import Task
from dropt_trainer.data import builtin
from dropt_trainer.data.dataset import Dataset
from dropt_trainer.data.own import as_dataset
from dropt_trainer.data.reading import MapStyle
from dropt_trainer.losses import LOSSES, Loss
from dropt_trainer.models import MODELS
from dropt_trainer.models.own import adapt

GROUPS = {"model": "dropt.models", "dataset": "dropt.datasets", "loss": "dropt.losses"}
BUILT_IN: Mapping[str, Mapping[str, object]] = {
    "model": MODELS, "dataset": builtin.DATASETS, "loss": LOSSES,
}  # fmt: skip
TASKS: tuple[Task, ...] = typing.get_args(Task)
DIGEST_LENGTH = 8  # of a digest in a name
MAX_WHY = 500

logger = logging.getLogger(__name__)


class PluginError(DroptError):
    """Code of the user's own that cannot be used; the detail says why."""

    status, code, title = 422, "own-code", "Code of your own cannot be used"


@dataclass(frozen=True)
class OwnModel:
    """A user's model: an adapted factory, see `models.own`."""

    build: Callable[..., nn.Module]
    tasks: tuple[Task, ...]
    package: str


@dataclass(frozen=True)
class OwnLoss:
    """A user's loss of one trial: `f(output, target) -> [B]`."""

    loss: Loss
    package: str


@dataclass(frozen=True)
class Plugins:
    """Everything of the users' own that a worker has, by name."""

    models: Mapping[str, OwnModel] = field(default_factory=dict)
    datasets: Mapping[str, Dataset] = field(default_factory=dict)
    losses: Mapping[str, OwnLoss] = field(default_factory=dict)

    def loss(self, name: str) -> str | Loss:
        """A loss for a pack: ours by name, the user's as it is. Raises PluginError."""
        if name in LOSSES:
            return name
        if name not in self.losses:
            raise PluginError(f"This worker has no loss {name!r}.")
        return self.losses[name].loss

    def and_also(self, others: "Plugins") -> "Plugins":
        """Both; `others` win where names are the same."""
        return Plugins(
            {**self.models, **others.models}, {**self.datasets, **others.datasets},
            {**self.losses, **others.losses},
        )  # fmt: skip


@dataclass(frozen=True)
class FileObject:
    """What `FILE.py:NAME` means, with the SHA-256 of the file."""

    path: Path
    attribute: str
    sha256: str
    value: Any  # whatever the file defines under this name

    @property
    def package(self) -> str:
        """Where it comes from, for the record."""
        return f"{self.path.name} sha256:{self.sha256}"

    def name(self, digest: str) -> str:
        """Its name in jobs: another digest, another name."""
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", self.attribute)
        return f"{plain}-{digest[:DIGEST_LENGTH]}"


def installed() -> Plugins:
    """What the packages of this environment offer; what is broken is logged and left out."""
    found: dict[str, dict[str, Any]] = {kind: {} for kind in GROUPS}
    for kind, group in GROUPS.items():
        for entry in sorted(metadata.entry_points(group=group), key=lambda one: one.name):
            package = "?" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
            where = {"group": group, "plugin": entry.name, "package": package}
            if entry.name in BUILT_IN[kind] or entry.name in found[kind]:
                logger.error("plugin.ignored", extra={**where, "why": "the name is taken"})
                continue
            try:
                found[kind][entry.name] = _load(kind, entry, package)
            except Exception as error:  # noqa: BLE001 (a package of others must not end the worker)
                logger.error("plugin.broken", extra={**where, "why": _why(error)})
    return Plugins(found["model"], found["dataset"], found["loss"])


def from_files(
    models: Iterable[str] = (), datasets: Iterable[str] = (), losses: Iterable[str] = ()
) -> Plugins:
    """What `FILE.py:NAME` texts mean.

    Raises:
        PluginError: no such file or name, the file raises, or what it defines cannot be used.
    """
    own_models, own_data, own_losses = {}, {}, {}
    for spec in models:
        found = load_object(spec)
        own_models[found.name(found.sha256)] = _usable(spec, _model, found.value, found.package)
    for spec in datasets:
        found = load_object(spec)
        again = functools.partial(open_file, spec)
        dataset = _usable(spec, _dataset, found.value, found.attribute, found.package, again)
        name = found.name(dataset.sha256)
        own_data[name] = _named(dataset, name)
    for spec in losses:
        found = load_object(spec)
        own_losses[found.name(found.sha256)] = _usable(spec, _loss, found.value, found.package)
    return Plugins(own_models, own_data, own_losses)


def load_object(spec: str) -> FileObject:
    """The object of `FILE.py:NAME`. Raises PluginError."""
    file, _, attribute = spec.rpartition(":")
    path = Path(file).resolve()
    if not path.is_file():
        raise PluginError(f"There is no file {file}.")
    content = path.read_bytes()
    module = _module(path, hashlib.sha256(content).hexdigest())
    value: Any = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            names = ", ".join(n for n in vars(module) if not n.startswith("_")) or "nothing"
            raise PluginError(f"{file} defines no {attribute!r}; it has {names}."[:MAX_WHY])
        value = getattr(value, part)
    return FileObject(path, attribute, hashlib.sha256(content).hexdigest(), value)


def open_file(spec: str) -> MapStyle:
    """The map-style data set of `FILE.py:NAME`, made anew by a process that reads."""
    return cast("MapStyle", load_object(spec).value())


def open_entry(name: str) -> MapStyle:
    """The map-style data set of an entry point, likewise."""
    (entry,) = metadata.entry_points(group=GROUPS["dataset"], name=name)
    return cast("MapStyle", entry.load()())


@functools.cache
def _module(path: Path, sha256: str) -> ModuleType:
    """The file as a module, run once; it can import its neighbours, as with `python FILE.py`."""
    name = f"dropt_file_{path.stem}_{sha256[:DIGEST_LENGTH]}"
    loading = importlib.util.spec_from_file_location(name, path)
    if loading is None or loading.loader is None:
        raise PluginError(f"{path} is no Python file.")
    module = importlib.util.module_from_spec(loading)
    sys.modules[name] = module  # for its dataclasses and pickles
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        loading.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise PluginError(f"{path.name} cannot be imported: {_why(error)}") from error
    return module


def _load(kind: str, entry: metadata.EntryPoint, package: str) -> object:
    value = entry.load()
    if kind == "model":
        return _model(value, package)
    if kind == "loss":
        return _loss(value, package)
    again = functools.partial(open_entry, entry.name)
    return _dataset(value, entry.name, package, again)


def _usable(spec: str, make: Callable[..., Any], *arguments: object) -> Any:
    """What `make` makes of an object; Any: a model, a data set or a loss."""
    try:
        return make(*arguments)
    except Exception as error:
        raise PluginError(f"{spec} cannot be used: {_why(error)}") from error


def _model(value: object, package: str) -> OwnModel:
    name = getattr(value, "__name__", type(value).__name__)
    tasks = tuple(getattr(value, "tasks", ())) or TASKS
    if unknown := [task for task in tasks if task not in TASKS]:
        raise ValueError(f"its tasks name {unknown[0]!r}, allowed: {', '.join(TASKS)}")
    return OwnModel(adapt(value, name), tasks, package)


def _dataset(value: object, name: str, package: str, reopen: Callable[[], MapStyle]) -> Dataset:
    if not callable(value):
        raise TypeError(f"{type(value).__name__} is no function that returns a data set")
    dataset = as_dataset(value(), name=name, reopen=reopen)
    return dataset if dataset.source else _named(dataset, name, source=package)


def _loss(value: object, package: str) -> OwnLoss:
    if not callable(value):
        raise TypeError(f"{type(value).__name__} is no function of output and target")
    return OwnLoss(cast("Loss", value), package)


def _named(dataset: Dataset, name: str, **changes: str) -> Dataset:
    changed: Dataset = replace(dataset, name=name, **cast("Any", changes))
    return changed


def _why(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (error.detail if isinstance(error, DroptError) else f"{type(error).__name__}: {text}")[
        :MAX_WHY
    ]
