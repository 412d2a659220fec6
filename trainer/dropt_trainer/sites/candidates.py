"""Hook sites: places without dropout so far where it can act.

Candidates are the tensors that enter a weight layer, outputs of embeddings and residual branches.
So a site lies behind the activation, functional ones too, and never between a layer and its norm.
"""

from collections import Counter
from dataclasses import dataclass, field, replace

from torch import nn
from torch.autograd.graph import Node
from torch.nn.modules.dropout import _DropoutNd

from dropt.spec.inspection import BatchNorm, Excluded, Kind, Role
from dropt_trainer.sites.layers import (
    ATTENTION_NODES,
    OPAQUE_MODULES,
    is_convolution,
    is_embedding,
    is_selu,
    node_is,
)
from dropt_trainer.sites.lint import Note
from dropt_trainer.sites.structure import Structure
from dropt_trainer.sites.trace import Call

MAP_DIMENSIONS = 4  # a tensor of [B, C, H, W] holds feature maps, whatever reads it
PASSING = (_DropoutNd, nn.Identity)  # return their input in evaluation: they produced nothing


@dataclass(frozen=True)
class Candidate:
    """A site before its neighbours are known; `order` is (weight layers begun before, rank)."""

    site: str
    layer: str
    role: Role
    kinds: tuple[Kind, ...]
    shape: tuple[int, ...]
    order: tuple[int, int]
    batch_norm: BatchNorm
    calls: int = 1
    stream: bool = False
    existing_rate: float | None = None
    off_because: str | None = None


@dataclass
class Found:
    """Candidates, refused places, and notes for the linter."""

    candidates: list[Candidate] = field(default_factory=list)
    excluded: list[Excluded] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


@dataclass(frozen=True)
class Coverage:
    """Where the model's own dropout acts already: its site, by the module's path."""

    inputs: dict[str, str]
    outputs: dict[str, str]


def find_hook_sites(structure: Structure, coverage: Coverage) -> Found:
    """All hook sites of a model, in no order."""
    finder = _Finder(structure, coverage)
    for call in structure.weight_calls:
        finder.look_before(call)
    for call in structure.trace.calls:
        if is_embedding(call.module):
            finder.look_behind_embedding(call)
    for branch, join in structure.branches.items():
        finder.look_at_branch(branch, join)
    finder.list_refused_outputs()
    return finder.found


class _Finder:
    """One pass over a structure; `taken` holds the nodes that have a site."""

    def __init__(self, structure: Structure, coverage: Coverage) -> None:
        self.structure = structure
        self.coverage = coverage
        self.found = Found()
        self.taken: dict[Node, str] = {}
        self.n_calls = Counter(call.path for call in structure.trace.calls)
        self.n_consumers = Counter(
            structure.origin(call.enters)
            for call in structure.weight_calls
            if call.enters is not None and call.enters in structure.graph
        )

    def look_before(self, call: Call) -> None:
        """The tensor that enters a weight layer."""
        node, structure = call.enters, self.structure
        if node is None or node not in structure.graph or self._is_opaque(call, node):
            return
        origin = structure.origin(node)
        site, by_producer = self._name(call, node, origin)
        if node in self.taken or origin in self.taken or self._is_again(site):
            return
        if self._is_covered(site, self.coverage.inputs.get(call.path)):
            return
        role = self._role(call, node)
        if origin in structure.skips and role not in ("head", "embed", "input"):
            self.found.excluded.append(Excluded(site=site, reason="skip_path"))
            return
        candidate = Candidate(
            site=site,
            layer=structure.describe(node),
            role=role,
            kinds=_kinds(role, structure, node, call.in_shape),
            shape=call.in_shape[1:],
            order=(call.clock, 2),
            batch_norm=self._batch_norm_before(call, node, by_producer=by_producer),
            calls=1 if by_producer else self.n_calls[call.path],
            stream=origin in structure.skips,
            off_because=self._pre_norm(origin, role),
        )
        self._add(node, candidate)

    def look_behind_embedding(self, call: Call) -> None:
        """The output of an embedding, unless it is a site as a layer's input."""
        node, site, structure = call.leaves, f"{call.path}:out", self.structure
        if node is None or node not in structure.graph or node in structure.behind:
            return
        if node in self.taken or self._is_again(site):
            return
        if self._is_covered(site, self.coverage.outputs.get(call.path)):
            return
        candidate = self._behind(call, node, "embed")
        self._add(node, replace(candidate, stream=node in structure.skips))

    def _behind(self, call: Call, node: Node, role: Role) -> Candidate:
        """A candidate at the output of a call."""
        return Candidate(
            site=f"{call.path}:out",
            layer=self.structure.describe(node),
            role=role,
            kinds=_kinds(role, self.structure, node, call.out_shape),
            shape=call.out_shape[1:],
            order=(call.ended, 0),
            batch_norm=self.structure.batch_norm_after(node),
            calls=self.n_calls[call.path],
        )

    def look_at_branch(self, node: Node, join: Node) -> None:
        """The output of a residual branch; none where the join is the model's output."""
        structure = self.structure
        calls = [
            c for c in structure.left_by.get(node, []) if c.path and self.n_calls[c.path] == 1
        ]
        if not calls or join in structure.behind or node in self.taken:
            return
        call = calls[-1]
        covers = [self.coverage.outputs[c.path] for c in calls if c.path in self.coverage.outputs]
        if is_embedding(calls[0].module) or isinstance(calls[0].module, OPAQUE_MODULES):
            return
        if self._is_covered(f"{call.path}:out", next(iter(covers), None)):
            return
        self._add(node, self._behind(call, node, "branch"))

    def list_refused_outputs(self) -> None:
        """Output layers, and layers whose output a batch norm reads."""
        for path in self.structure.output_layers:
            if not path.startswith("<"):
                self.found.excluded.append(Excluded(site=f"{path}:out", reason="output_layer"))
        for call in self.structure.weight_calls:
            node, site = call.leaves, f"{call.path}:out"
            if node is None or node not in self.structure.graph or node in self.structure.behind:
                continue
            if node not in self.taken and self.structure.batch_norm_after(node) == "direct":
                self.found.excluded.append(Excluded(site=site, reason="before_batch_norm"))

    def _is_opaque(self, call: Call, node: Node) -> bool:
        """Whether a layer, or what its input comes from, is recurrent or attention."""
        source = list(self.structure.place(node))[-1]
        producer = self.structure.weight_call(source)
        for near in (call, producer):
            if near is not None and isinstance(near.module, OPAQUE_MODULES):
                self.found.notes.append(Note("unsupported-layer", f"{near.path}:out"))
                return True
        if producer is None and node_is(source, ATTENTION_NODES):
            self.found.notes.append(Note("unsupported-layer", f"{call.path}:in"))
            return True
        return False

    def _name(self, call: Call, node: Node, origin: Node) -> tuple[str, bool]:
        """The site's name, and whether it is the port of what produced the tensor.

        A module that runs several times in a forward is not named: its hook would act elsewhere.
        """
        if origin in self.structure.trace.entries:
            shared = self.n_consumers[origin] > 1 and not self.structure.trace.entries[origin]
            return (":in", True) if shared else (f"{call.path}:in", False)
        producers = self._producers(node)
        if producers and self.n_calls[producers[0].path] == 1 and node not in self.structure.skips:
            return f"{producers[0].path}:out", True
        return f"{call.path}:in", False

    def _producers(self, node: Node) -> list[Call]:
        """The calls whose output a node is, inner modules first."""
        calls = self.structure.left_by.get(node, [])
        return [call for call in calls if not isinstance(call.module, PASSING)]

    def _batch_norm_before(self, call: Call, node: Node, *, by_producer: bool) -> BatchNorm:
        """What follows the site: all users of the tensor, or this one layer."""
        if by_producer:
            return self.structure.batch_norm_after(node)
        if call.leaves is None or call.leaves not in self.structure.graph:
            return "none"
        return self.structure.batch_norm_after(call.leaves, behind_layer=True)

    def _role(self, call: Call, node: Node) -> Role:
        structure = self.structure
        source = structure.weight_call(structure.origin(node))
        leaves = [c.leaves for c in structure.weight_calls if c.leaves is not None]
        upstream = structure.graph.upstream[node] | 1 << structure.graph.index[node]
        if not upstream & structure.graph.bits(leaves):
            return "input"
        if source is not None and is_embedding(source.module):
            return "embed"
        if call.path in structure.output_layers:
            return "head"
        return "conv" if is_convolution(call.module) else "hidden"

    def _pre_norm(self, origin: Node, role: Role) -> str | None:
        """Why the output of a residual block's first norm is off by default."""
        is_norm = self.structure.normalises(origin) and not self.structure.normalises_batch(origin)
        if is_norm and self.structure.branches and role == "hidden":
            return "output of the norm in front of a residual branch"
        return None

    def _is_again(self, site: str) -> bool:
        """Whether a site was found already, in another call of its module."""
        return any(candidate.site == site for candidate in self.found.candidates)

    def _is_covered(self, site: str, by: str | None) -> bool:
        if by is None:
            return False
        self.found.excluded.append(Excluded(site=site, reason="covered", covered_by=by))
        return True

    def _add(self, node: Node, candidate: Candidate) -> None:
        self.taken[node] = candidate.site
        self.taken[self.structure.origin(node)] = candidate.site
        self.found.candidates.append(candidate)


def _kinds(
    role: Role, structure: Structure, node: Node, shape: tuple[int, ...]
) -> tuple[Kind, ...]:
    """Allowed kinds, default first."""
    if role == "conv":
        return ("channel", "element")
    if role == "branch":
        return ("path", "element")
    if role == "embed":
        return ("element", "token") if len(shape) == 3 else ("element",)
    if role == "head" and len(shape) >= MAP_DIMENSIONS:
        return ("element", "channel")
    if role in ("hidden", "head") and is_selu(structure.origin(node)):
        return ("alpha", "element")
    return ("element",)
