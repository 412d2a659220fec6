"""Attribute sites: dropout that the model has already, found by where the tags arrive."""

from dataclasses import replace

from torch import nn
from torch.autograd.graph import Node
from torch.nn.modules.dropout import _DropoutNd

from dropt.spec.inspection import BatchNorm, Excluded, Kind, Role
from dropt_trainer.sites.candidates import Candidate, Coverage, Found, time_dim_of
from dropt_trainer.sites.functions import RECURRENT
from dropt_trainer.sites.layers import is_convolution, is_embedding, is_recurrent, is_selu
from dropt_trainer.sites.lint import Note
from dropt_trainer.sites.neighbours import (
    are_probabilities,
    is_recurrent_output,
    is_trainable_around,
    next_layer,
    reads_embeddings_alone,
)
from dropt_trainer.sites.structure import Structure
from dropt_trainer.sites.trace import Attribute, Call, Dropout

CHANNEL_DROPOUTS = ("dropout1d", "dropout2d", "dropout3d")
RECURRENT_NAMES = frozenset(function.__name__ for function in RECURRENT)
NEAREST_NORM: tuple[BatchNorm, ...] = ("direct", "downstream", "none")


def find_attribute_sites(
    model: nn.Module, structure: Structure, attributes: list[Attribute]
) -> tuple[Found, Coverage]:
    """The model's own dropout, and what it covers.

    Args:
        model: as it is, to read its classes.
        structure: of the trace in training, with the tags of `attributes` in place.
        attributes: all that may be rates.
    """
    found = Found()
    by_attribute: dict[Attribute, list[Dropout]] = {}
    for dropout in structure.trace.dropouts:
        if dropout.attribute is not None:
            by_attribute.setdefault(dropout.attribute, []).append(dropout)
        elif not dropout.inside:
            found.excluded.append(Excluded(site=_site(dropout), reason="hard_coded"))
            found.notes.append(Note("hard-coded-dropout", _site(dropout)))
    marks = {
        dropout.node: _site(dropout)
        for dropout in structure.trace.dropouts
        if dropout.node is not None and not dropout.inside
    }
    for attribute in attributes:
        _judge(model, structure, attribute, by_attribute.get(attribute, []), marks, found)
    found.excluded = list(dict.fromkeys(found.excluded))
    coverage = _coverage(structure, marks)
    coverage.outputs.update(_own_implementations(model, attributes, found))
    return found, coverage


def _own_implementations(
    model: nn.Module, attributes: list[Attribute], found: Found
) -> dict[str, str]:
    """Modules that seem to drop by code of their own, as DropPath does, by path.

    They have a rate that reaches no dropout function, and nothing else that it could be for.
    """
    dead = {note.site for note in found.notes if note.code == "dead-dropout"}
    return {
        attribute.path: attribute.site
        for attribute in attributes
        if attribute.site in dead and attribute.value > 0
        for module in [model.get_submodule(attribute.path)]
        if not isinstance(module, _DropoutNd)
        and not list(module.children())
        and not list(module.parameters())
    }


def _site(dropout: Dropout) -> str:
    """Name of the site, or of the place where a rate stands in the code."""
    if dropout.attribute is not None:
        return dropout.attribute.site
    return f"{dropout.path}:dropout"


def _judge(
    model: nn.Module,
    structure: Structure,
    attribute: Attribute,
    arrivals: list[Dropout],
    marks: dict[Node, str],
    found: Found,
) -> None:
    """Make one attribute a site, or say why not."""
    live = [(d.node, d) for d in arrivals if d.node is not None and d.node in structure.graph]
    constant = [dropout for dropout in arrivals if dropout.node is None]
    if not live and constant:
        found.candidates.append(_on_constant(attribute, constant))
        return
    if not live:
        found.notes += [Note("dead-dropout", attribute.site)] * (attribute.value > 0)
        return
    if any(node in structure.behind for node, _ in live):
        found.excluded.append(Excluded(site=attribute.site, reason="output_layer"))
        found.notes.append(Note("output-layer-site", attribute.site))
        return
    candidate = _candidate(model, structure, attribute, live)
    if _acts_behind_another(structure, live, marks):
        candidate = replace(candidate, off_because="acts on the units of another dropout")
        found.notes.append(Note("double-dropout", attribute.site))
    if candidate.role.startswith("rnn") and attribute.value > 0 and "locked" in candidate.kinds:
        found.notes.append(Note("recurrent-per-step", attribute.site))
    if not any(is_trainable_around(structure, node) for node, _ in live):
        candidate = replace(candidate, off_because="nothing trainable around it: frozen")
    if candidate.kinds[0] != "alpha" and "alpha" in candidate.kinds:
        found.notes.append(Note("alpha-mismatch", attribute.site))
    found.candidates.append(candidate)


def _on_constant(attribute: Attribute, arrivals: list[Dropout]) -> Candidate:
    """The site of a rate on what depends on no input and no weight, as a table of positions."""
    return Candidate(
        site=attribute.site,
        layer="constant",
        role="embed",
        kinds=("element",),
        shape=arrivals[0].shape,
        order=(arrivals[0].clock, 1),
        batch_norm="none",
        calls=len(arrivals),
        existing_rate=attribute.value,
        off_because="acts on what depends on no input and no weight",
    )


def _candidate(
    model: nn.Module,
    structure: Structure,
    attribute: Attribute,
    live: list[tuple[Node, Dropout]],
) -> Candidate:
    """The site of a rate; what is said of it is true of the first of its calls.

    Its kinds suit every call, and its batch norm is the nearest behind any.
    """
    node, first = live[0]
    kinds = [_kinds(structure, node, dropout) for node, dropout in live]
    role = _role(structure, node, first)
    norms = {structure.batch_norm_after(node) for node, _ in live}
    return Candidate(
        site=attribute.site,
        layer=structure.describe(node),
        role=role,
        kinds=tuple(kind for kind in kinds[0] if all(kind in other for other in kinds)),
        shape=first.shape,
        order=(first.clock, 1),
        batch_norm=min(norms, key=NEAREST_NORM.index),
        calls=len(live),
        time_dim=_time_dim(model, structure, attribute, node, first, role),
        stream=any(node in structure.on_skips for node, _ in live),
        existing_rate=attribute.value,
    )


def _acts_behind_another(
    structure: Structure, live: list[tuple[Node, Dropout]], marks: dict[Node, str]
) -> bool:
    """Whether another site's dropout acts on the same units before this one."""
    return any(
        before in marks and marks[before] != marks.get(node)
        for node, dropout in live
        if not dropout.inside
        for before in list(structure.place(node))[1:]
    )


def _role(structure: Structure, node: Node, first: Dropout) -> Role:
    if first.inside:
        return "rnn_inter" if first.function in RECURRENT_NAMES else "attn_prob"
    *_, source = structure.place(node)
    follower = next_layer(structure, node, clock=first.clock)
    if follower is not None and is_recurrent(follower.module):
        return "rnn_in"
    if is_recurrent_output(structure, structure.origin(node)):
        return "rnn_out"
    return _feedforward_role(structure, node, source, follower, n_dims=len(first.shape))


def _feedforward_role(
    structure: Structure, node: Node, source: Node, follower: Call | None, *, n_dims: int
) -> Role:
    if are_probabilities(structure, node):
        return "attn_prob"
    if node in structure.on_branches:
        return "branch"
    if reads_embeddings_alone(structure, node):
        return "embed"
    if source in structure.trace.entries:
        return "input"
    if follower is not None and follower.path in structure.output_layers:
        return "head"
    producer = structure.weight_call(source)
    feeds_convolution = follower is not None and is_convolution(follower.module)
    holds_maps = (
        producer is not None
        and is_convolution(producer.module)
        and n_dims == len(producer.out_shape)
    )
    return "conv" if feeds_convolution or holds_maps else "hidden"


def _time_dim(
    model: nn.Module,
    structure: Structure,
    attribute: Attribute,
    node: Node,
    first: Dropout,
    role: Role,
) -> int | None:
    """Dimension of time steps where the recurrent layer beside the dropout has one."""
    if role == "rnn_inter":
        return time_dim_of(model.get_submodule(attribute.path), first.shape)
    near = next_layer(structure, node, clock=first.clock)
    if role == "rnn_out":
        near = structure.weight_call(structure.origin(node))
    is_recurrent_role = role in ("rnn_in", "rnn_out") and near is not None
    return time_dim_of(near.module, first.shape) if near and is_recurrent_role else None


def _kinds(structure: Structure, node: Node, dropout: Dropout) -> tuple[Kind, ...]:
    """What the model does first, then what else fits the place."""
    if "alpha" in dropout.function:
        return ("alpha", "element")
    if "feature" in dropout.function or dropout.function in CHANNEL_DROPOUTS:
        return ("channel", "element")
    role = _role(structure, node, dropout)
    if role == "rnn_inter":
        return ("locked", "element")
    fits: dict[Kind, bool] = {
        "element": True,
        "locked": role in ("rnn_in", "rnn_out"),
        "channel": role == "conv",
        "path": role == "branch",
        "token": role == "embed" and len(dropout.shape) == 3,
        "alpha": any(is_selu(structure.origin(n)) for n in structure.activations(node)),
    }
    return tuple(kind for kind, is_allowed in fits.items() if is_allowed)


def _coverage(structure: Structure, marks: dict[Node, str]) -> Coverage:
    """Which layers' inputs and which modules' outputs a dropout reaches with no layer between."""
    inputs: dict[str, str] = {}
    for call in structure.weight_calls:
        if call.enters is not None and call.enters in structure.graph:
            hit = next((marks[n] for n in structure.place(call.enters) if n in marks), None)
            if hit is not None:
                inputs[call.path] = hit
    return Coverage(inputs, _covered_outputs(structure, marks))


def _covered_outputs(structure: Structure, marks: dict[Node, str]) -> dict[str, str]:
    outputs: dict[str, str] = {}
    for mark, site in marks.items():
        if mark in structure.graph:
            for node in structure.place(mark):
                outputs |= dict.fromkeys((c.path for c in structure.left_by.get(node, [])), site)
    for call in structure.trace.calls:
        if is_embedding(call.module) and call.leaves in structure.graph:
            for site in _marks_behind(structure, call.leaves, marks):
                outputs[call.path] = site
    return outputs


def _marks_behind(structure: Structure, node: Node | None, marks: dict[Node, str]) -> list[str]:
    """Dropouts that a node reaches before the next weight layer."""
    found, seen = [], set()
    stack = [] if node is None else list(structure.graph.users[node])
    while stack:
        current = stack.pop()
        if current in seen or structure.mixes(current):
            continue
        seen.add(current)
        if current in marks:
            found.append(marks[current])
        stack += structure.graph.users[current]
    return found
