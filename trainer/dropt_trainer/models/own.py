"""A user's own model, from their factory to the form that the reference models have.

A factory takes arguments by name and returns an `nn.Module`; it may be a function or the class
itself. What it names of `FROM_DATA` comes from the data set, the other parameters are arguments of
the job. Initial weights come from torch's default generator alone.
"""

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import JsonValue, PydanticUserError, TypeAdapter
from pydantic_core import PydanticSerializationError
from torch import Tensor, nn

from dropt_trainer.models.arguments import FROM_DATA, check_arguments

OwnFactory = Callable[..., object]
EMPTY = inspect.Parameter.empty
BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class OwnModelError(ValueError):
    """A user's factory does not do what a factory has to do."""


def adapt(factory: object, name: str) -> Callable[..., nn.Module]:
    """The factory with a signature that holds what JSON can say, for `arguments`.

    A parameter of another type is left at its default.

    Raises:
        OwnModelError: it cannot be called, or it needs an argument that JSON cannot hold.
    """
    if not callable(factory):
        raise OwnModelError(f"{name} is {type(factory).__name__}, and no factory of models")
    parameters = _parameters(factory, name)

    @functools.wraps(factory, assigned=("__doc__",), updated=())
    def build(**given: object) -> nn.Module:
        known = {key: value for key, value in given.items() if key in parameters}
        return _module(factory, known, name)

    del vars(build)["__wrapped__"]  # its own signature is the one to be read
    vars(build)["__signature__"] = inspect.Signature(list(parameters.values()))
    build.__annotations__ = {key: p.annotation for key, p in parameters.items()}
    return build


def build_own(
    build: Callable[..., nn.Module],
    args: Mapping[str, object],
    from_data: Mapping[str, object],
    *,
    seed: int,
) -> nn.Module:
    """A model of an adapted factory; its initial weights are a function of the seed.

    Args:
        build: see `adapt`.
        args: of the job.
        from_data: what the data set says, by the names in `FROM_DATA`.
        seed: of torch's default generator, for the time of the call.

    Raises:
        ValueError: an argument is unknown or not allowed; see `check_arguments`.
        OwnModelError: the factory raises, or returns something else than a model.
    """
    checked = check_arguments(build, args)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build(**from_data, **checked)


def check_repeatable(make: Callable[[int], nn.Module], name: str) -> None:
    """Raise OwnModelError unless two calls with one seed give equal weights, and some to train."""
    first, second = make(0), make(0)
    if not any(p.requires_grad for p in first.parameters()):
        raise OwnModelError(f"the model of {name} has no parameter to train")
    one, other = first.state_dict(), second.state_dict()
    different = [key for key in one if key not in other or not _is_same(one[key], other[key])]
    if different or one.keys() != other.keys():
        where = different[0] if different else sorted(one.keys() ^ other.keys())[0]
        raise OwnModelError(
            f"two calls of {name} with one seed give models that differ, first in {where}; "
            "draw initial weights with torch's default generator alone, and read them from "
            "nothing that changes"
        )


def _parameters(factory: OwnFactory, name: str) -> dict[str, inspect.Parameter]:
    """What may be passed by name; those of the data set among them."""
    try:
        signature, hints = inspect.signature(factory), _hints(factory)
    except (TypeError, ValueError, NameError) as error:
        raise OwnModelError(f"the signature of {name} cannot be read: {error}") from error
    kept = {}
    for key, parameter in signature.parameters.items():
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            continue
        hint = hints.get(key, _type_of(parameter.default))
        if parameter.kind in BY_NAME and (key in FROM_DATA or _is_json(hint, parameter.default)):
            kept[key] = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hint)
        elif parameter.default is EMPTY:
            raise OwnModelError(
                f"{name} needs the argument {key!r}, which no JSON can give it; arguments are "
                "numbers, texts, Booleans and lists of them, or have a default"
            )
    return kept


def _hints(factory: OwnFactory) -> dict[str, Any]:
    source: Any = factory.func if isinstance(factory, functools.partial) else factory
    if inspect.isclass(source):
        source = source.__init__
    elif not inspect.isroutine(source):
        source = type(source).__call__
    return typing.get_type_hints(source, include_extras=True)


def _type_of(default: object) -> Any:
    """The type of an argument without annotation."""
    return type(default) if isinstance(default, bool | int | float | str) else JsonValue


def _is_json(hint: Any, default: object) -> bool:
    """Whether JSON can hold the type, and its default."""
    try:
        adapter = TypeAdapter(hint)
        adapter.json_schema()
        if default is not EMPTY:
            adapter.dump_json(default, warnings="error")
    except (PydanticUserError, PydanticSerializationError):
        return False
    return True


def _module(factory: OwnFactory, arguments: Mapping[str, object], name: str) -> nn.Module:
    try:
        model = factory(**arguments)
    except Exception as error:
        raise OwnModelError(f"{name} raises {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise OwnModelError(
            f"{name} returns {type(model).__name__}, a torch.nn.Module is expected"
        )
    return model


def _is_same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return one == other
