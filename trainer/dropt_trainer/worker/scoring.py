"""Scores of single examples as a file: safetensors, the same bytes for the same scores."""

import json

import safetensors.torch
import torch

from dropt_trainer.fused.driver import Examples

METADATA_KEY = "dropt"  # one key: with several their order, and so the digest, would vary


def scores_file(examples: Examples, part: str) -> bytes:
    """The scores of one trial on one part of the split.

    Tensors: `row` i64 [N], `loss` f32 [N], `prediction` f32 [N, C], [N, D] or [N, T], `target`
    i64 [N] or [N, T], or f32 [N, D], and `group` i64 [N] where the data set has groups.
    """
    target = examples.target if examples.target.dtype == torch.int64 else examples.target.float()
    tensors = {
        "row": examples.rows,
        "loss": examples.loss,
        "prediction": examples.prediction,
        "target": target,
    }
    if examples.group is not None:
        tensors["group"] = examples.group
    return safetensors.torch.save(
        {name: tensor.cpu().contiguous() for name, tensor in tensors.items()},
        metadata={METADATA_KEY: json.dumps({"split": part})},
    )
