"""A model on a few rows of its data: its sites, its output layers, and what the linter says."""

import hashlib
import json

from torch import Tensor, nn

from dropt.spec.inspection import Inspection
from dropt_trainer.sites.discover import discover
from dropt_trainer.sites.trace import Inputs, Loss


def inspect_model(model: nn.Module, inputs: Inputs, targets: Tensor, loss: Loss) -> Inspection:
    """Look at a model, which comes back as it was; the probe of lanes is not part of it.

    Args:
        model: not instrumented.
        inputs: a few rows, [B, ...] or several such by name, on the model's device.
        targets: of the same rows.
        loss: the job's, of output and targets; per example or a scalar.

    Raises:
        SiteError: the model is instrumented, or its loss depends on nothing that can be traced.
    """
    found = discover(model, inputs, targets, loss)
    return Inspection(
        fingerprint=fingerprint(model),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        output_layers=found.output_layers,
        sites=found.sites,
        excluded=found.excluded,
        findings=found.findings,
    )


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over path, class name and parameter shapes of every module, in order.

    Weights and instruments leave it alone; a placement for one fingerprint fits no other.
    """
    structure = [
        [path, type(module).__name__, [[name, list(p.shape)] for name, p in _own(module)]]
        for path, module in model.named_modules()
    ]
    return hashlib.sha256(json.dumps(structure, separators=(",", ":")).encode()).hexdigest()


def _own(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(module.named_parameters(recurse=False))
