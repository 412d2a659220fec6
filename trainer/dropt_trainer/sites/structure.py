"""What a trace says about a model: weight layers, residual joins, output layers, neighbours."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch.autograd.graph import Node

from dropt.spec.inspection import BatchNorm
from dropt_trainer.sites.graph import Graph
from dropt_trainer.sites.layers import (
    ADD_NODES,
    BATCH_NORM_CLASSES,
    BATCH_NORM_NODES,
    MIXING_NODES,
    NORM_NODES,
    VIEW_NODES,
    describe_module,
    describe_node,
    is_norm,
    is_weight_layer,
    node_is,
)
from dropt_trainer.sites.trace import Call, Trace


@dataclass
class Structure:
    """A trace with its nodes' meaning.

    `left_by`: the calls whose output a node is, inner modules first. `branches` and `skips`: the
    operands of residual joins. `behind`: nodes at or behind the output layers. `output_layers`:
    their paths, or `<functional NAME>`; empty if the model ends in a residual join.
    """

    trace: Trace
    left_by: dict[Node, list[Call]]
    weight_calls: list[Call]
    activation_bits: int
    branches: dict[Node, Node] = field(default_factory=dict)
    skips: set[Node] = field(default_factory=set)
    behind: set[Node] = field(default_factory=set)
    output_layers: tuple[str, ...] = ()

    @property
    def graph(self) -> Graph:
        """The graph behind the loss."""
        return self.trace.graph

    @functools.cached_property
    def on_branches(self) -> set[Node]:
        """The nodes between the last layer of a residual branch and its join."""
        return {node for branch in self.branches for node in self.place(branch)}

    @functools.cached_property
    def on_skips(self) -> set[Node]:
        """The nodes between the last layer before a skip path and its join."""
        return {node for skip in self.skips for node in self.place(skip)}

    def is_activation(self, node: Node) -> bool:
        """Whether a node depends on an input or on the output of a weight layer."""
        return bool(self.activation_bits >> self.graph.index[node] & 1)

    def activations(self, node: Node) -> list[Node]:
        """The activations that a node was computed from."""
        return [source for source in self.graph.inputs[node] if self.is_activation(source)]

    @functools.cached_property
    def mixing_bits(self) -> int:
        """The set of nodes that mix units by weights."""
        return self.graph.bits(node for node in self.graph.index if self.mixes(node))

    def is_behind_layer(self, node: Node) -> bool:
        """Whether a weight layer or a function of that kind stands before a node."""
        return bool((self.graph.upstream[node] | self.graph.bits([node])) & self.mixing_bits)

    def weight_call(self, node: Node) -> Call | None:
        """The call of a weight layer whose output a node is."""
        calls = self.left_by.get(node, [])
        return next((call for call in calls if is_weight_layer(call.module)), None)

    def mixes(self, node: Node) -> bool:
        """Whether a node mixes units by weights, in a module or in a function."""
        return node_is(node, MIXING_NODES) or self.weight_call(node) is not None

    def normalises(self, node: Node) -> bool:
        """Whether a node is the output of a norm."""
        by_module = any(is_norm(call.module) for call in self.left_by.get(node, []))
        return by_module or node_is(node, NORM_NODES)

    def normalises_batch(self, node: Node) -> bool:
        """Whether a node is the output of a batch norm."""
        calls = self.left_by.get(node, [])
        by_module = any(isinstance(call.module, BATCH_NORM_CLASSES) for call in calls)
        return by_module or node_is(node, BATCH_NORM_NODES)

    def follows_skip(self, node: Node) -> bool:
        """Whether a node is the output of a norm that reads a skip path: a pre-norm."""
        calls = [call for call in self.left_by.get(node, []) if is_norm(call.module)]
        read = [call.enters for call in calls] or self.activations(node)
        return any(self.origin(n) in self.skips for n in read if n is not None and n in self.graph)

    def chain(self, node: Node, *, stop: Callable[[Node], bool]) -> Iterator[Node]:
        """A node and what it was computed from, up to where `stop` says or a join begins.

        The node that stops the walk is the last one.
        """
        while True:
            yield node
            sources = self.activations(node)
            if stop(node) or len(sources) != 1:
                return
            node = sources[0]

    def origin(self, node: Node) -> Node:
        """The node below views: what holds the same numbers in another shape."""
        return next(
            n
            for n in self.chain(node, stop=lambda n: not self._is_plain_view(n))
            if not self._is_plain_view(n)
        )

    def _is_plain_view(self, node: Node) -> bool:
        is_sorting = node_is(node, ("IndexSelect",)) and any(
            node_is(user, ("PackPadded",)) for user in self.graph.users[node]
        )
        is_view = is_sorting or (node_is(node, VIEW_NODES) and node not in self.trace.entries)
        return is_view and node not in self.left_by and len(self.activations(node)) == 1

    def place(self, node: Node) -> Iterator[Node]:
        """The nodes between a node and the weight layer or norm before it, both included.

        Dropout on any two of them acts on the same units: one site is enough.
        """
        return self.chain(node, stop=lambda n: self.mixes(n) or self.normalises(n))

    def batch_norm_after(self, node: Node, *, behind_layer: bool = False) -> BatchNorm:
        """Whether a batch norm follows a node: `direct` before the next weight layer, or later.

        `behind_layer`: the node is a weight layer's output, and the question is about its input.
        """
        found: BatchNorm = "none"
        stack, seen = [(user, behind_layer) for user in self.graph.users[node]], set()
        while stack:
            step = stack.pop()
            if step in seen:
                continue
            seen.add(step)
            current, crossed = step
            if self.normalises_batch(current):
                if not crossed:
                    return "direct"
                found = "downstream"
            crossed = crossed or self.mixes(current)
            stack += [(user, crossed) for user in self.graph.users[current]]
        return found

    def describe(self, node: Node) -> str:
        """What produced a node, in words: `Linear(64, 128) + BatchNorm1d + ReLU`."""
        words: list[str] = []
        for current in self.chain(node, stop=lambda n: self.weight_call(n) is not None):
            call = self.weight_call(current) or next(iter(self.left_by.get(current, [])), None)
            if call is not None:
                words.append(describe_module(call.module))
            elif current in self.trace.entries:
                words.append("input")
            elif not node_is(current, VIEW_NODES):
                words.append(describe_node(current))
        return " + ".join(reversed(words)) or "input"


def read_structure(trace: Trace) -> Structure:
    """Find joins and output layers in a trace."""
    left_by: dict[Node, list[Call]] = {}
    for call in trace.calls:
        if call.leaves is not None and call.leaves in trace.graph:
            left_by.setdefault(call.leaves, []).append(call)
    weights = [call for call in trace.calls if is_weight_layer(call.module)]
    weights.sort(key=lambda call: call.clock)
    leaves = [call.leaves for call in weights if call.leaves is not None]
    structure = Structure(trace, left_by, weights, _activations(trace, leaves))
    for node in trace.graph.index:
        _read_join(structure, node)
    structure.output_layers = _find_output_layers(structure)
    return structure


def _activations(trace: Trace, leaves: list[Node]) -> int:
    """The set of nodes that depend on an input or on the output of a weight layer."""
    graph = trace.graph
    sources = graph.bits([*trace.entries, *leaves])
    return graph.bits(
        n for n, up in graph.upstream.items() if (up | 1 << graph.index[n]) & sources
    )


def _read_join(structure: Structure, node: Node) -> None:
    """Note the two sides of a residual addition.

    The side that the other was computed from is the skip; with a projection on the skip, neither
    is, and the side with the longer history is the branch.
    """
    sides = structure.activations(node)
    if not node_is(node, ADD_NODES) or len(sides) != 2:
        return
    graph = structure.graph
    first, second = sides
    lengths = [graph.upstream[side].bit_count() for side in sides]
    shared = graph.upstream[first] & graph.upstream[second] & structure.activation_bits
    if graph.depends(first, on=second):
        branch, skip = first, second
    elif graph.depends(second, on=first):
        branch, skip = second, first
    elif shared and lengths[0] != lengths[1]:
        skip, branch = (first, second) if lengths[0] < lengths[1] else (second, first)
    else:
        return
    structure.branches[branch] = node
    structure.skips.add(skip)


def _find_output_layers(structure: Structure) -> tuple[str, ...]:
    """Walk back from the loss to the first weight layers; a true residual join ends the walk."""
    found: dict[str, None] = {}
    stack = [structure.graph.root]
    while stack:
        node = stack.pop()
        if node in structure.behind:
            continue
        structure.behind.add(node)
        call = structure.weight_call(node)
        if call is not None:
            found[call.path] = None
        elif node_is(node, MIXING_NODES):
            found[f"<functional {node.name()}>"] = None
        elif _is_true_join(structure, node):
            continue
        else:
            stack += structure.activations(node)
    return tuple(sorted(found))


def _is_true_join(structure: Structure, node: Node) -> bool:
    """Whether one operand of an addition was computed from the other."""
    sides = structure.activations(node)
    if not node_is(node, ADD_NODES) or len(sides) != 2:
        return False
    first, second = sides
    graph = structure.graph
    return graph.depends(first, on=second) or graph.depends(second, on=first)
