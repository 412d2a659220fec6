"""Find the sites of any model: one forward in evaluation, one in training, two walks of graphs.

Nothing goes by the names of classes or by a traced program, so models with functional activations,
shared modules and data-dependent code are read as they run on the given rows.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from dropt.spec.inspection import Excluded, Finding, LayerKind, Role, Site
from dropt_trainer.sites.attributes import tag_attributes
from dropt_trainer.sites.candidates import Candidate, find_hook_sites
from dropt_trainer.sites.existing import find_attribute_sites
from dropt_trainer.sites.lint import Note, lint
from dropt_trainer.sites.ports import STATE, SiteError
from dropt_trainer.sites.structure import read_structure
from dropt_trainer.sites.trace import Inputs, Loss, trace

LAYER_KINDS: dict[Role, LayerKind] = {
    "input": "input", "embed": "embedding", "hidden": "dense", "conv": "conv",
    "branch": "residual", "head": "head",
}  # fmt: skip


@dataclass(frozen=True)
class Discovery:
    """What was found in a model, sites in the order in which a forward reaches them."""

    sites: tuple[Site, ...]
    excluded: tuple[Excluded, ...]
    output_layers: tuple[str, ...]
    findings: tuple[Finding, ...]


def discover(model: nn.Module, inputs: Inputs, targets: Tensor, loss: Loss) -> Discovery:
    """Find where dropout can act.

    Args:
        model: not instrumented; it comes back as it was, and so do torch's generators.
        inputs: a few rows, as the model takes them: [B, ...] or several such by name.
        targets: [B, ...], of the same rows.
        loss: of the model's output and the targets; summed if it is not a scalar.

    Raises:
        SiteError: the model is instrumented, or the loss depends on nothing that can be traced.
    """
    if hasattr(model, STATE):
        raise SiteError("This model is instrumented; strip it before looking for sites.")
    tags = tag_attributes(model)
    shown = read_structure(trace(model, inputs, targets, loss))
    trained = read_structure(trace(model, inputs, targets, loss, tags=tags))
    attributes, coverage = find_attribute_sites(model, trained, list(tags.values()))
    hooks = find_hook_sites(shown, coverage)
    sites = _in_order([*attributes.candidates, *hooks.candidates])
    notes = [*attributes.notes, *hooks.notes]
    if shown.trace.integer_input:
        notes.append(Note("token-input", ":in"))
    return Discovery(
        sites=sites,
        excluded=(*attributes.excluded, *hooks.excluded),
        output_layers=shown.output_layers,
        findings=lint(sites, notes),
    )


def _in_order(candidates: list[Candidate]) -> tuple[Site, ...]:
    candidates = sorted(candidates, key=lambda candidate: candidate.order)
    return tuple(
        _record(candidate, number / len(candidates)) for number, candidate in enumerate(candidates)
    )


def _record(candidate: Candidate, depth: float) -> Site:
    reason = _why_off(candidate)
    return Site(
        site=candidate.site,
        layer=candidate.layer,
        layer_kind=LAYER_KINDS[candidate.role],
        role=candidate.role,
        kinds=candidate.kinds,
        shape=candidate.shape,
        calls=candidate.calls,
        batch_norm=candidate.batch_norm,
        stream=candidate.stream,
        existing_rate=candidate.existing_rate,
        depth=depth,
        recommended=reason is None,
        reason=reason,
    )


def _why_off(candidate: Candidate) -> str | None:
    """Why a site is not in the default space; None where it is.

    Stochastic depth on a branch was made for batch-normalised networks (Huang et al. 2016), and it
    scales whole branches: it stays on.
    """
    if candidate.off_because is not None:
        return candidate.off_because
    if candidate.batch_norm == "direct":
        return "a batch norm follows directly"
    if candidate.batch_norm == "downstream" and candidate.role != "branch":
        return "a batch norm follows behind the next layer"
    return None
