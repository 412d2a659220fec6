"""A model on a few rows of its data: its sites, its output layers, and what the linter says."""

from torch import Tensor, nn

from dropt.spec.inspection import Inspection
from dropt_trainer.sites.discover import discover
from dropt_trainer.sites.fingerprint import fingerprint
from dropt_trainer.sites.trace import Inputs, Loss

__all__ = ["fingerprint", "inspect_model"]


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
