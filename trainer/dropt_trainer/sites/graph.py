"""The autograd graph behind one value, as a graph of its own.

Edges run from a node to what it was computed from; `inputs`, `users` and `upstream` speak of the
forward direction. Sets of nodes are Python integers with one bit per node.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch.autograd.graph import Node


@dataclass(frozen=True)
class Graph:
    """All nodes that `root` was computed from."""

    root: Node
    index: Mapping[Node, int]
    inputs: Mapping[Node, tuple[Node, ...]]
    users: Mapping[Node, tuple[Node, ...]]
    upstream: Mapping[Node, int]  # everything a node was computed from, without itself

    def __contains__(self, node: object) -> bool:
        return node in self.index

    def bits(self, nodes: Iterable[Node]) -> int:
        """The set of those nodes that belong to the graph."""
        return sum({1 << self.index[node] for node in nodes if node in self.index})

    def depends(self, node: Node, on: Node) -> bool:
        """Whether a node was computed from another."""
        return bool(self.upstream[node] >> self.index[on] & 1)


def build_graph(root: Node) -> Graph:
    """The graph behind `root`, walked without recursion: models can be deep."""
    order = _inputs_first(root)
    index = {node: number for number, node in enumerate(order)}
    inputs = {node: _inputs_of(node) for node in order}
    users: dict[Node, list[Node]] = {node: [] for node in order}
    upstream: dict[Node, int] = {}
    for node in order:
        bits = 0
        for source in inputs[node]:
            users[source].append(node)
            bits |= upstream[source] | 1 << index[source]
        upstream[node] = bits
    return Graph(root, index, inputs, {n: tuple(u) for n, u in users.items()}, upstream)


def _inputs_of(node: Node) -> tuple[Node, ...]:
    """What a node was computed from, each once."""
    return tuple(dict.fromkeys(source for source, _ in node.next_functions if source is not None))


def _inputs_first(root: Node) -> list[Node]:
    """All nodes, each behind everything that it was computed from."""
    order: list[Node] = []
    seen = {root}
    stack = [(root, iter(_inputs_of(root)))]
    while stack:
        node, rest = stack[-1]
        source = next(rest, None)
        if source is None:
            order.append(node)
            stack.pop()
        elif source not in seen:
            seen.add(source)
            stack.append((source, iter(_inputs_of(source))))
    return order
