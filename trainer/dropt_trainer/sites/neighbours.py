"""What lies around a node: attention, softmax, trainable parameters, layers before and behind."""

from collections.abc import Iterator

from torch.autograd.graph import Node

from dropt_trainer.sites.layers import (
    MIXING_NODES,
    PRODUCT_NODES,
    is_embedding,
    is_recurrent,
    node_is,
)
from dropt_trainer.sites.opaque import N_ATTENDED
from dropt_trainer.sites.structure import Structure
from dropt_trainer.sites.trace import Call

SOFTMAX_NODES = ("Softmax",)
ATTENTION_NODES = ("Attention",)


def is_attended(structure: Structure, node: Node) -> bool:
    """Whether attention reads a node, a layer's output, as query, key or value.

    Attention is one node, or products of two activations: scores and what they weigh.
    """
    return any(
        _takes_as_attended(reader, source) or is_product(structure, reader)
        for reader, source in _readers(structure, node)
    )


def biases_attention(structure: Structure, node: Node) -> bool:
    """Whether a node only shifts attention scores, as a table of relative positions does."""
    ends = [
        not _takes_as_attended(reader, source) or node_is(reader, SOFTMAX_NODES)
        for reader, source in _readers(structure, node, stop_at=SOFTMAX_NODES)
        if node_is(reader, (*SOFTMAX_NODES, *ATTENTION_NODES))
    ]
    others = any(
        not node_is(reader, (*SOFTMAX_NODES, *ATTENTION_NODES))
        for reader, _ in _readers(structure, node, stop_at=SOFTMAX_NODES)
    )
    return bool(ends) and all(ends) and not others


def is_product(structure: Structure, node: Node) -> bool:
    """Whether a node multiplies two activations as matrices."""
    return node_is(node, PRODUCT_NODES) and len(structure.activations(node)) > 1


def is_context(structure: Structure, node: Node) -> bool:
    """Whether a node is what attention gives, in some view."""
    *_, source = structure.place(node)
    return node_is(source, ATTENTION_NODES) or is_product(structure, source)


def are_probabilities(structure: Structure, node: Node) -> bool:
    """Whether a node holds a softmax that a product of matrices reads."""
    is_softmax = any(node_is(n, SOFTMAX_NODES) for n in structure.place(node))
    return is_softmax and any(
        is_product(structure, reader) for reader, _ in _readers(structure, node)
    )


def reads_embeddings_alone(structure: Structure, node: Node) -> bool:
    """Whether every layer right before a node is an embedding; norms and sums may lie between."""
    calls = [structure.weight_call(source) for source in _sources(structure, node)]
    return bool(calls) and all(call is not None and is_embedding(call.module) for call in calls)


def is_recurrent_output(structure: Structure, node: Node) -> bool:
    """Whether a node is the output sequence of a recurrent layer."""
    call = structure.weight_call(node)
    return call is not None and is_recurrent(call.module)


def next_layer(structure: Structure, node: Node, *, clock: int) -> Call | None:
    """The first weight layer behind a node that was called when `clock` layers had begun."""
    return next(
        (
            call
            for call in structure.weight_calls
            if call.clock >= clock and call.enters is not None and call.enters in structure.graph
            if call.enters is node or structure.graph.depends(call.enters, on=node)
        ),
        None,
    )


def is_trainable_around(structure: Structure, node: Node) -> bool:
    """Whether the layers right before or right behind a node have a trainable parameter."""
    if structure.trace.trainable < 0:
        return True
    near = {node, *_walk(structure, node, backwards=True), *_walk(structure, node)}
    return any(_parameters(structure, n) & structure.trace.trainable for n in near)


def _parameters(structure: Structure, node: Node) -> int:
    """The set of nodes that a node takes from elsewhere than from activations."""
    graph = structure.graph
    bits = 0
    for source in graph.inputs[node]:
        if not structure.is_activation(source):
            bits |= graph.upstream[source] | 1 << graph.index[source]
    return bits


def _walk(structure: Structure, node: Node, *, backwards: bool = False) -> Iterator[Node]:
    """The nodes up to the next ones that mix units, those included."""
    step = structure.activations if backwards else lambda n: structure.graph.users[n]
    stack = [node] if backwards else list(structure.graph.users[node])
    seen: set[Node] = set()
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        yield current
        if not node_is(current, MIXING_NODES):
            stack += step(current)


def _sources(structure: Structure, node: Node) -> Iterator[Node]:
    """The nearest weight layers that a node was computed from, on every path; inputs too."""
    stack, seen = [node], set()
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        if structure.mixes(current) or current in structure.trace.entries:
            yield current
        else:
            stack += structure.activations(current)


def _readers(
    structure: Structure, node: Node, *, stop_at: tuple[str, ...] = ()
) -> Iterator[tuple[Node, Node]]:
    """The nearest nodes behind a node that mix units, each with the node that it reads.

    The walk also ends at `stop_at` and at the loss.
    """
    graph = structure.graph
    stack = [(user, node) for user in graph.users[node]]
    seen: set[tuple[Node, Node]] = set()
    while stack:
        reader, source = stack.pop()
        if (reader, source) in seen:
            continue
        seen.add((reader, source))
        if node_is(reader, (*MIXING_NODES, *stop_at)) or not graph.users[reader]:
            yield reader, source
        else:
            stack += [(user, reader) for user in graph.users[reader]]


def _takes_as_attended(reader: Node, source: Node) -> bool:
    """Whether an attention node has a node among query, key and value."""
    if not node_is(reader, ATTENTION_NODES):
        return False
    return any(n is source for n, _ in reader.next_functions[:N_ATTENDED])
