"""What a worker found in a model: its sites, its output layers, and what is worth saying."""

from typing import Literal

from pydantic import Field

from dropt.spec.record import Rate, Record

Kind = Literal["element", "channel", "locked", "path", "token", "alpha"]
Role = Literal[
    "input", "embed", "hidden", "conv", "rnn_in", "rnn_out", "rnn_inter", "attn_prob",
    "attn_context", "branch", "head",
]  # fmt: skip
LayerKind = Literal[
    "dense", "conv", "recurrent", "attention", "embedding", "input", "head", "residual"
]
BatchNorm = Literal["none", "direct", "downstream"]
Exclusion = Literal[
    "output_layer", "before_batch_norm", "skip_path", "query_key_value", "hard_coded", "covered",
    "frozen",
]  # fmt: skip


class Site(Record):
    """A place where dropout can act, named `<module path>:<port>`."""

    site: str
    layer: str = Field(description="The layer in words, for people.")
    layer_kind: LayerKind
    role: Role
    kinds: tuple[Kind, ...] = Field(min_length=1, description="Allowed kinds, default first.")
    shape: tuple[int, ...] = Field(description="Of one example, without the batch dimension.")
    batch_dim: int = 0
    time_dim: int | None = None
    calls: int = Field(default=1, ge=1, description="Calls in one forward, each with own masks.")
    batch_norm: BatchNorm = "none"
    stream: bool = Field(default=False, description="Lies on a skip path.")
    existing_rate: Rate | None = None
    depth: float = Field(ge=0.0, le=1.0, description="Order of first call over number of sites.")
    recommended: bool
    reason: str | None = None


class Excluded(Record):
    """A place that was looked at and refused."""

    site: str
    reason: Exclusion
    covered_by: str | None = None


class Finding(Record):
    """What the linter says of one site, with what to do."""

    code: str
    site: str
    message: str
    remedy: str


class Probe(Record):
    """What was measured on the real model: the lane, and how many slots pay."""

    lane: Literal["fused", "solo"]
    why: str
    slots: int = Field(ge=1)
    bytes_per_trial: int = Field(ge=0)
    trial_steps_per_second: dict[str, float] = Field(
        default_factory=dict, description="By number of slots; '1' is the solo lane."
    )


class Inspection(Record):
    """The sites of one model on one data set."""

    fingerprint: str
    parameters: int = Field(ge=0)
    output_layers: tuple[str, ...]
    sites: tuple[Site, ...]
    excluded: tuple[Excluded, ...] = ()
    findings: tuple[Finding, ...] = ()
    probe: Probe | None = None
