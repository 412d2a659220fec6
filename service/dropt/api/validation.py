"""What pydantic says of a request, in our words: pointer, value received, what is allowed."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dropt.errors import MAX_SHOWN, FieldError, InvalidRequest
from dropt.spec.nearest import did_you_mean

MAX_ERRORS = 50  # fields listed; a report may be wrong in 5,000 places
_KINDS = {
    "int": "a whole number", "float": "a number", "string": "a text", "bool": "true or false",
    "tuple": "a list", "list": "a list", "dict": "an object", "model": "an object",
}  # fmt: skip
_WORDS = {Ge: "at least", Gt: "above", Le: "at most", Lt: "below"}
_BOUNDS = ("greater_than", "less_than", "finite_number", "too_long", "too_short", "pattern")


_Arm = tuple[tuple[str | int, ...], tuple[type, ...]]  # path, and values that it is not for


@dataclass(frozen=True)
class _Place:
    """Where an error is: its pointer, what is declared there, and the union arms on the way."""

    path: tuple[str | int, ...]
    annotation: Any  # a type expression: it has no type of its own
    arms: tuple[_Arm, ...] = ()


def invalid_body(
    errors: Sequence[Mapping[str, Any]], annotation: object, body: object
) -> InvalidRequest:
    """The error over a JSON body that `annotation` refused.

    Args:
        errors: of pydantic, their locations starting inside the body.
        annotation: what the body was validated against; it knows the names valid at each place.
        body: the JSON value.
    """
    groups: dict[tuple[str | int, ...], list[tuple[Mapping[str, Any], _Place]]] = defaultdict(list)
    for error in errors:
        place = _locate(annotation, error["loc"])
        if _is_of_chosen_arm(place, body):
            groups[place.path].append((error, place))
    fields = [_merged(group) for path, group in groups.items() if not _is_echo(path, groups)]
    return invalid(fields)


def invalid(fields: Sequence[FieldError]) -> InvalidRequest:
    """The error over these fields; only the first ones are listed when there are very many."""
    error = InvalidRequest.of(*fields)
    if len(fields) > MAX_ERRORS:
        error.detail += f"; the first {MAX_ERRORS} are listed"
        error.errors = error.errors[:MAX_ERRORS]
    return error


def unknown_name(pointer: str, name: str, known: Sequence[str], *, what: str) -> FieldError:
    """A name that is not valid at this place, with the one that was perhaps meant."""
    message = f"Unknown {what}.{did_you_mean(name, known)}"
    return FieldError(pointer, f"unknown-{what.split()[-1]}", message, name, tuple(known))


def pointer_of(path: Sequence[str | int]) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)


def shown(value: object) -> str:
    """A value for people: a text as it is, anything else as JSON; cut, nothing else hidden."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, allow_nan=True)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def invalid_parameter(error: Mapping[str, Any], annotation: object) -> FieldError:
    """One error over a query parameter or header.

    Args:
        error: of pydantic, its location starting at "query" or "header".
        annotation: the model of the query; None where the parameter stands alone.
    """
    kind, *location = error["loc"]
    place = _locate(annotation, location)
    return _worded(error, place, f"{'?' if kind == 'query' else ''}{pointer_of(location)[1:]}")


def _merged(group: Sequence[tuple[Mapping[str, Any], _Place]]) -> FieldError:
    """The arms of a union each say why they refuse: one error that allows what any arm allows."""
    worded = [_worded(error, place, pointer_of(place.path)) for error, place in group]
    worded.sort(key=lambda each: each.allowed == (_KINDS["model"],))
    first = worded[0]
    allowed = tuple(dict.fromkeys(value for each in worded for value in each.allowed))
    if len(worded) == 1 or not allowed:
        return first
    message = f"Must be {_either(allowed)}.{_guess(first.received, allowed)}"
    return FieldError(first.pointer, first.code, message, first.received, allowed)


def _worded(error: Mapping[str, Any], place: _Place, pointer: str) -> FieldError:
    kind, value = str(error["type"]), error.get("input")
    if kind == "extra_forbidden":
        return unknown_name(
            pointer, str(error["loc"][-1]), names_at(place.annotation), what="field"
        )
    if kind == "missing":
        return FieldError(pointer, "missing-field", "This field is required.")
    received, allowed = shown(value), tuple(_allowed(error, place.annotation))
    if kind == "value_error":
        return FieldError(pointer, "out-of-range", f"{error['ctx']['error']}.", received)
    if kind == "literal_error":
        code = "unknown-metric" if pointer.endswith("/metric") else "unknown-value"
        message = f"Must be {_either(allowed)}.{_guess(received, allowed)}"
        return FieldError(pointer, code, message, received, allowed)
    code = "out-of-range" if any(bound in kind for bound in _BOUNDS) else "wrong-type"
    message = f"Must be {_either(allowed)}." if allowed else f"{error['msg']}."
    return FieldError(pointer, code, message, received, allowed)


def _either(allowed: Sequence[str]) -> str:
    return " or ".join(part for part in (", ".join(allowed[:-1]), allowed[-1]) if part)


def _guess(received: str | None, allowed: Sequence[str]) -> str:
    return did_you_mean(received, allowed) if received else ""


def _allowed(error: Mapping[str, Any], annotation: object) -> Iterator[str]:
    kind = str(error["type"])
    if kind == "literal_error":
        literals = [value for arm in _arms(annotation) for value in _literals(arm)]
        yield from literals or [str(error["ctx"]["expected"])]
        return
    if kind in ("too_long", "too_short", "string_too_long", "string_too_short"):
        yield _length(error)
        return
    bounds = " and ".join(
        f"{_WORDS[type(bound)]} {_bound(bound):,.15g}" for bound in _bounds(annotation)
    )
    noun = next((words for name, words in _KINDS.items() if kind.startswith(name + "_")), None)
    if text := " ".join(part for part in (noun, bounds) if part):
        yield text


def _length(error: Mapping[str, Any]) -> str:
    context = error["ctx"]
    unit = "characters" if "string" in error["type"] else "entries"
    if "max_length" in context:
        return f"at most {context['max_length']} {unit} long"
    if context["min_length"] == 1:
        return "not empty"
    return f"at least {context['min_length']} {unit} long"


def names_at(annotation: object) -> list[str]:
    """The names of the fields that an object may have here."""
    model = next((arm for arm in _arms(annotation) if _is_model(arm)), None)
    if model is None:
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _locate(annotation: object, location: Sequence[str | int]) -> _Place:
    """Follow a location of pydantic: some of its parts name union arms, not places."""
    path: list[str | int] = []
    arms: list[_Arm] = []
    parent, here = annotation, annotation
    for part in location:
        choices = _arms(here)
        if part == "[key]":
            here = get_args(_bare(parent))[0]
            continue
        if len(choices) > 1:
            parent = here = next((arm for arm in choices if _is_named(arm, str(part))), None)
            arms.append((tuple(path), _shapes_for_others(here, choices)))
            continue
        path.append(part)
        parent, here = here, _child(choices[0] if choices else None, part)
    found = parent if here is None else here
    return _Place(tuple(path), found, tuple(arms))


def _child(annotation: Any, part: str | int) -> Any:
    """What is declared below this place, None where nothing of this name is."""
    if _is_model(annotation):
        fields = annotation.model_fields.items()
        field = next((f for name, f in fields if part in (name, f.alias)), None)
        return None if field is None else _with_metadata(field)
    arguments = get_args(_bare(annotation))
    if isinstance(part, int) and len(arguments) > part and Ellipsis not in arguments:
        return arguments[part]
    return arguments[-1] if get_origin(_bare(annotation)) is dict else next(iter(arguments), None)


def _is_of_chosen_arm(place: _Place, body: object) -> bool:
    """Whether the union arm that complains is for such a value."""
    return not any(isinstance(_value_at(body, path), others) for path, others in place.arms)


def _shapes_for_others(arm: object, choices: Sequence[object]) -> tuple[type, ...]:
    """What another arm is for: objects are for models alone, lists for tuples if there are any."""
    has_lists = any(_is_list(choice) for choice in choices)
    objects: tuple[type, ...] = () if _is_object(arm) else (dict,)
    return (*objects, list) if has_lists and not _is_list(arm) else objects


def _is_echo(path: tuple[str | int, ...], others: Mapping[tuple[str | int, ...], Any]) -> bool:
    """A list is 'too short' when its entries are wrong: only the entries are worth saying."""
    kinds = {error["type"] for error, _ in others[path]}
    deeper = any(len(other) > len(path) and other[: len(path)] == path for other in others)
    return kinds == {"too_short"} and deeper


def _value_at(body: Any, path: Sequence[str | int]) -> object:
    for part in path:
        try:
            body = body[part]
        except (KeyError, IndexError, TypeError):
            return None
    return body


def _arms(annotation: Any) -> list[Any]:
    """The arms of a union without None; the annotation alone when it is none."""
    bare = _bare(annotation)
    if get_origin(bare) not in (Union, UnionType):
        return [annotation]
    return [arm for arm in get_args(bare) if arm is not NoneType]


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _with_metadata(field: FieldInfo) -> object:
    if not field.metadata:
        return field.annotation
    return Annotated[(field.annotation, *field.metadata)]


def _is_model(annotation: Any) -> bool:
    return isinstance(_bare(annotation), type) and issubclass(_bare(annotation), BaseModel)


def _is_object(annotation: Any) -> bool:
    return _is_model(annotation) or get_origin(_bare(annotation)) is dict


def _is_list(annotation: Any) -> bool:
    return get_origin(_bare(annotation)) in (tuple, list)


def _is_named(arm: Any, label: str) -> bool:
    """Whether pydantic means this arm of a union: `function-after[_is_ordered(), Range]`."""
    if get_origin(_bare(arm)) is Literal:
        return label == f"literal[{','.join(repr(value) for value in get_args(_bare(arm)))}]"
    return getattr(_bare(arm), "__name__", "?") in label


def _literals(annotation: Any) -> list[str]:
    bare = _bare(annotation)
    return [_plain(value) for value in get_args(bare)] if get_origin(bare) is Literal else []


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _bounds(annotation: Any) -> list[Ge | Gt | Le | Lt]:
    """The bounds of a number, lower ones first."""
    found: list[Ge | Gt | Le | Lt] = []
    metadata = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    for item in metadata:
        candidates = item.metadata if isinstance(item, FieldInfo) else [item]
        found.extend(each for each in candidates if isinstance(each, (Ge, Gt, Le, Lt)))
    return sorted(found, key=lambda bound: isinstance(bound, (Le, Lt)))


def _bound(bound: Ge | Gt | Le | Lt) -> Any:
    names = {Ge: "ge", Gt: "gt", Le: "le", Lt: "lt"}
    return getattr(bound, names[type(bound)])
