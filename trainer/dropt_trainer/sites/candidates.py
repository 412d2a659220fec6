"""Hook sites: places without dropout so far where it can act.

Candidates are the tensors that enter a weight layer, outputs of embeddings, recurrent layers and
residual branches. So a site lies behind the activation, functional ones too, and never between a
layer and its norm.
"""

from collections import Counter
from dataclasses import dataclass, field, replace

from torch import nn
from torch.autograd.graph import Node
from torch.nn.modules.dropout import _DropoutNd

from dropt.spec.inspection import BatchNorm, Excluded, Exclusion, Kind, Role
from dropt_trainer.sites.layers import (
    is_convolution,
    is_embedding,
    is_recurrent,
    is_selu,
)
from dropt_trainer.sites.lint import Note
from dropt_trainer.sites.neighbours import (
    biases_attention,
    is_attended,
    is_context,
    is_trainable_around,
)
from dropt_trainer.sites.structure import Structure
from dropt_trainer.sites.trace import Call

MAP_DIMENSIONS = 4  # a tensor of [B, C, H, W] holds feature maps, whatever reads it
PASSING = (_DropoutNd, nn.Identity)  # return their input in evaluation: they produced nothing


@dataclass(frozen=True)
class Candidate:
    """A site before its neighbours are known.

    Attributes:
        shape: of one call, the batch dimension included.
        order: weight layers begun before, then rank.
        off_because: why it is not in the default space, if it is not.
    """

    site: str
    layer: str
    role: Role
    kinds: tuple[Kind, ...]
    shape: tuple[int, ...]
    order: tuple[int, int]
    batch_norm: BatchNorm
    calls: int = 1
    time_dim: int | None = None
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
    for call in structure.trace.calls:
        if is_recurrent(call.module):
            finder.look_behind_recurrent(call)
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
        readers = {
            (call.path, structure.origin(call.enters))
            for call in structure.weight_calls
            if call.enters is not None and call.enters in structure.graph
        }
        self.n_consumers = Counter(origin for _, origin in readers)
        self.attended = {call.path for call in structure.weight_calls if self._is_attended(call)}
        self.read_by_attention = {
            call.enters for call in structure.weight_calls if call.path in self.attended
        }

    def look_before(self, call: Call) -> None:
        """The tensor that enters a weight layer."""
        node, structure = call.enters, self.structure
        if node is None or node not in structure.graph:
            return
        origin = structure.origin(node)
        site, by_producer = self._name(call, node, origin)
        if node in self.taken or origin in self.taken or self._is_again(site):
            return
        if self._is_covered(site, self.coverage.inputs.get(call.path)):
            return
        role = self._role(call, node)
        reason = self._why_not(call, origin, role)
        if reason is not None:
            self._refuse(site, reason)
            return
        self._add(
            node,
            Candidate(
                site=site,
                layer=structure.describe(node),
                role=role,
                kinds=_kinds(role, structure, node, call.in_shape),
                shape=call.in_shape,
                order=(call.clock, 2),
                batch_norm=self._batch_norm_before(call, node, by_producer=by_producer),
                calls=1 if by_producer else self.n_calls[call.path],
                time_dim=time_dim_of(call.module, call.in_shape),
                stream=origin in structure.skips,
                off_because=self._why_off(origin, role),
            ),
        )

    def look_behind_embedding(self, call: Call) -> None:
        """The output of an embedding, unless it is a site as a layer's input."""
        node, site, structure = call.leaves, f"{call.path}:out", self.structure
        if node is None or node not in structure.graph or node in structure.behind:
            return
        if node in self.taken or self._is_again(site):
            return
        if self._is_covered(site, self.coverage.outputs.get(call.path)):
            return
        if biases_attention(structure, node):
            self._refuse(site, "query_key_value")
            return
        candidate = self._behind(call, node, "embed")
        self._add(node, replace(candidate, stream=node in structure.skips))

    def look_behind_recurrent(self, call: Call) -> None:
        """The output sequence of a recurrent layer; a cell gives its state, which stays whole."""
        node, site, structure = call.leaves, f"{call.path}:out", self.structure
        if node is None or node not in structure.graph or node in structure.behind:
            return
        if node in self.taken or self._is_again(site) or isinstance(call.module, nn.RNNCellBase):
            return
        if not self._is_covered(site, self.coverage.outputs.get(call.path)):
            candidate = replace(
                self._behind(call, node, "rnn_out"),
                order=(call.ended, 1),  # behind what drops inside
                time_dim=time_dim_of(call.module, call.out_shape),
            )
            self._add(node, candidate)

    def _behind(self, call: Call, node: Node, role: Role) -> Candidate:
        """A candidate at the output of a call."""
        return Candidate(
            site=f"{call.path}:out",
            layer=self.structure.describe(node),
            role=role,
            kinds=_kinds(role, self.structure, node, call.out_shape),
            shape=call.out_shape,
            order=(call.ended, 0),
            batch_norm=self.structure.batch_norm_after(node),
            calls=self.n_calls[call.path],
        )

    def look_at_branch(self, node: Node, join: Node) -> None:
        """The output of a residual branch; none where the join is the model's output."""
        structure = self.structure
        calls = [c for c in self._leaving(node) if c.path and self.n_calls[c.path] == 1]
        if not calls or join in structure.behind or self._is_taken(node, calls):
            return
        call = calls[-1]
        covers = [self.coverage.outputs[c.path] for c in calls if c.path in self.coverage.outputs]
        if is_embedding(calls[0].module):
            return
        if not self._is_covered(f"{call.path}:out", next(iter(covers), None)):
            self._add(node, self._behind(call, node, "branch"))

    def _leaving(self, node: Node) -> list[Call]:
        """The calls whose output a node is, or is a view of."""
        return self.structure.left_by.get(node) or self.structure.left_by.get(
            self.structure.origin(node), []
        )

    def _is_taken(self, node: Node, calls: list[Call]) -> bool:
        return node in self.taken or any(call.leaves in self.taken for call in calls)

    def _is_attended(self, call: Call) -> bool:
        """Whether a call is a projection to queries, keys or values."""
        if isinstance(call.module, nn.MultiheadAttention):
            return True
        if is_embedding(call.module) or is_recurrent(call.module):
            return False
        if call.leaves is None or call.leaves not in self.structure.graph:
            return False
        return is_attended(self.structure, call.leaves)

    def _why_not(self, call: Call, origin: Node, role: Role) -> Exclusion | None:
        """Why what enters a layer is no site."""
        if call.path in self.attended:
            return "query_key_value"
        if origin in self.structure.skips and role not in ("head", "embed", "input", "rnn_in"):
            return "skip_path"
        return None

    def _refuse(self, site: str, reason: Exclusion) -> None:
        refused = Excluded(site=site, reason=reason)
        if refused not in self.found.excluded:
            self.found.excluded.append(refused)

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

    def _name(self, call: Call, node: Node, origin: Node) -> tuple[str, bool]:
        """The site's name, and whether it is the port of what produced the tensor.

        A module that runs several times in a forward is not named: its hook would act elsewhere;
        nor is one whose output attention reads as well.
        """
        if origin in self.structure.trace.entries:
            shared = self.n_consumers[origin] > 1 and not self.structure.trace.entries[origin]
            return (":in", True) if shared else (f"{call.path}:in", False)
        producers = self._producers(node)
        is_shared = node in self.read_by_attention and call.path not in self.attended
        is_whole = node in self.structure.skips or is_shared
        if producers and self.n_calls[producers[0].path] == 1 and not is_whole:
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
        if is_recurrent(call.module):
            return "rnn_in"
        if not structure.is_behind_layer(node):
            return "input"
        if source is not None and is_embedding(source.module):
            return "embed"
        if call.path in structure.output_layers:
            return "head"
        if is_context(structure, node):
            return "attn_context"
        return "conv" if is_convolution(call.module) else "hidden"

    def _why_off(self, origin: Node, role: Role) -> str | None:
        """Why a site inside a transformer is off by default."""
        if role == "attn_context":
            return "what attention heads give on"
        is_norm = self.structure.normalises(origin) and not self.structure.normalises_batch(origin)
        if is_norm and role == "hidden" and self.structure.follows_skip(origin):
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
        if is_trainable_around(self.structure, node):
            self.found.candidates.append(candidate)
        else:
            self._refuse(candidate.site, "frozen")


def time_dim_of(module: nn.Module, shape: tuple[int, ...]) -> int | None:
    """Dimension of time steps of what a recurrent layer reads and gives; None without one.

    A cell sees one step at a time, and the data of a PackedSequence are told apart by their place.
    """
    if not isinstance(module, nn.RNNBase):
        return None
    return 1 if module.batch_first and len(shape) == 3 else 0


def _kinds(
    role: Role, structure: Structure, node: Node, shape: tuple[int, ...]
) -> tuple[Kind, ...]:
    """Allowed kinds, default first."""
    if role in ("rnn_in", "rnn_out"):
        return ("locked", "element")
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
