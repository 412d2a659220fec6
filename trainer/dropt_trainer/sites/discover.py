"""Find the sites of any model: forwards in evaluation and in training, and walks of their graphs.

Nothing goes by the names of classes or by a traced program, so models with functional activations,
shared modules and data-dependent code are read as they run on the given rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dropt.spec.inspection import Excluded, Finding, LayerKind, Role, Site
from dropt_trainer.sites.attributes import tag_attributes
from dropt_trainer.sites.candidates import Candidate, find_hook_sites
from dropt_trainer.sites.existing import find_attribute_sites
from dropt_trainer.sites.lint import Note, lint
from dropt_trainer.sites.ports import STATE, SiteError
from dropt_trainer.sites.structure import read_structure
from dropt_trainer.sites.trace import Attribute, Inputs, Loss, trace

LAYER_KINDS: dict[Role, LayerKind] = {
    "input": "input", "embed": "embedding", "hidden": "dense", "conv": "conv",
    "branch": "residual", "head": "head", "rnn_in": "recurrent", "rnn_out": "recurrent",
    "rnn_inter": "recurrent", "attn_prob": "attention", "attn_context": "attention",
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
        SiteError: the model is instrumented, has no parameters or no sites, its forward or the
            loss fails on these rows, or the loss depends on nothing that can be traced.
    """
    if hasattr(model, STATE):
        raise SiteError("This model is instrumented; strip it before looking for sites.")
    if not any(parameter.is_floating_point() for parameter in model.parameters()):
        raise SiteError("The model has no parameters: there is nothing to train.")
    tags = tag_attributes(model)
    seen = _look(model, inputs, targets, loss, tags)
    more = _look(model, _one_more(inputs), torch.cat([targets, targets[:1]]), loss, tags)
    batch_dims = _batch_dims(seen.candidates, more.candidates)
    sites = _in_order(seen.candidates, batch_dims)
    if not sites:
        raise SiteError(_no_sites(seen))
    return Discovery(sites, seen.excluded, seen.output_layers, lint(sites, seen.notes))


@dataclass(frozen=True)
class _Look:
    """What two traces with the same rows showed."""

    candidates: list[Candidate]
    excluded: tuple[Excluded, ...]
    output_layers: tuple[str, ...]
    notes: list[Note]


def _look(
    model: nn.Module, inputs: Inputs, targets: Tensor, loss: Loss, tags: Mapping[float, Attribute]
) -> _Look:
    shown = read_structure(trace(model, inputs, targets, loss))
    trained = read_structure(trace(model, inputs, targets, loss, tags=tags))
    attributes, coverage = find_attribute_sites(model, trained, list(tags.values()))
    hooks = find_hook_sites(shown, coverage)
    notes = [*attributes.notes, *hooks.notes]
    if shown.trace.integer_input:
        notes.append(Note("token-input", ":in"))
    return _Look(
        [*attributes.candidates, *hooks.candidates],
        (*attributes.excluded, *hooks.excluded),
        shown.output_layers,
        notes,
    )


def _no_sites(seen: _Look) -> str:
    refused = ", ".join(f"{e.site} ({e.reason})" for e in seen.excluded) or "nothing"
    layers = ", ".join(seen.output_layers) or "none"
    return (
        f"The model has no place for dropout: its output layers are {layers}, refused was "
        f"{refused}. Dropout needs a float tensor that enters a layer with trainable weights."
    )


def _one_more(inputs: Inputs) -> Inputs:
    """The rows, and the first of them again."""
    if isinstance(inputs, dict):
        return {name: torch.cat([tensor, tensor[:1]]) for name, tensor in inputs.items()}
    return torch.cat([inputs, inputs[:1]])


def _batch_dims(candidates: list[Candidate], with_one_more: list[Candidate]) -> dict[str, int]:
    """The dimension of examples of each site: the first that grew with the rows; else 0."""
    shapes = {candidate.site: candidate.shape for candidate in with_one_more}
    dims: dict[str, int] = {}
    for candidate in candidates:
        pairs = zip(candidate.shape, shapes.get(candidate.site, ()), strict=False)
        dims[candidate.site] = next((d for d, (n, m) in enumerate(pairs) if n != m), 0)
    return dims


def _in_order(candidates: list[Candidate], batch_dims: Mapping[str, int]) -> tuple[Site, ...]:
    candidates = sorted(candidates, key=lambda candidate: candidate.order)
    return tuple(
        _record(candidate, batch_dims[candidate.site], number / len(candidates))
        for number, candidate in enumerate(candidates)
    )


def _record(candidate: Candidate, batch_dim: int, depth: float) -> Site:
    reason = _why_off(candidate)
    return Site(
        site=candidate.site,
        layer=candidate.layer,
        layer_kind=LAYER_KINDS[candidate.role],
        role=candidate.role,
        kinds=candidate.kinds,
        shape=tuple(n for dim, n in enumerate(candidate.shape) if dim != batch_dim),
        batch_dim=batch_dim,
        time_dim=candidate.time_dim,
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
