"""The inspection that a worker reports: complete, exact JSON, and a stable fingerprint."""

import hashlib
import json

import pytest
import torch
from torch import Tensor, nn

from dropt.spec.inspection import Inspection
from dropt_trainer.inspect import fingerprint, inspect_model
from dropt_trainer.losses import cross_entropy
from dropt_trainer.models import build
from dropt_trainer.sites.instrument import SitePort, instrument


def mlp(seed: int = 0, **args: object) -> nn.Module:
    return build("mlp", {"hidden": [6, 5], **args}, input_shape=(4,), n_outputs=3, seed=seed)


def rows(n: int = 4) -> Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(0))


def look(model: nn.Module) -> Inspection:
    return inspect_model(model, rows(), torch.tensor([0, 1, 2, 0]), cross_entropy)


def test_inspection_is_what_the_protocol_carries() -> None:
    found = look(mlp())
    assert found.parameters == 4 * 6 + 6 + 6 * 5 + 5 + 5 * 3 + 3
    assert found.output_layers == ("layers.4",)
    assert found.probe is None
    again = Inspection.model_validate_json(found.model_dump_json())
    assert again == found
    hidden = json.loads(found.model_dump_json())["sites"][1]
    assert hidden | {"depth": round(hidden["depth"], 2)} == {
        "site": "layers.1:out", "layer": "Linear(4, 6) + ReLU", "layer_kind": "dense",
        "role": "hidden", "kinds": ["element"], "shape": [6], "batch_dim": 0, "time_dim": None,
        "calls": 1, "batch_norm": "none", "stream": False, "existing_rate": None, "depth": 0.33,
        "recommended": True, "reason": None,
    }  # fmt: skip


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_number_of_rows_does_not_matter(batch_norm: bool) -> None:
    model = mlp(batch_norm=batch_norm)
    few = inspect_model(model, rows(1), torch.tensor([2]), cross_entropy)
    many = inspect_model(model, rows(30), torch.arange(30) % 3, cross_entropy)
    assert few == many


def test_fingerprint_is_sha256_over_paths_classes_and_parameter_shapes() -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.ReLU())
    expected = [
        ["", "Sequential", []],
        ["0", "Linear", [["weight", [2, 4]], ["bias", [2]]]],
        ["1", "ReLU", []],
    ]
    text = json.dumps(expected, separators=(",", ":"))
    assert fingerprint(model) == hashlib.sha256(text.encode()).hexdigest()


def test_fingerprint_follows_structure_and_nothing_else() -> None:
    assert fingerprint(mlp(0)) == fingerprint(mlp(1).double().eval())
    instrumented = mlp()
    instrument(instrumented, [SitePort("layers.1:out", "element")])
    assert fingerprint(instrumented) == fingerprint(mlp())
    others = [mlp(hidden=[6, 4]), mlp(batch_norm=True), mlp(activation="tanh")]
    assert len({fingerprint(model) for model in (mlp(), *others)}) == 4
