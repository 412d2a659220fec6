"""The residual network: its form, and the sites it offers with and without batch norm."""

import torch
from torch import Tensor, nn

from dropt.spec.inspection import Inspection
from dropt_trainer.inspect import inspect_model
from dropt_trainer.losses import cross_entropy
from dropt_trainer.models import build


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def inspected(*, batch_norm: bool) -> Inspection:
    model = build("resnet", {"batch_norm": batch_norm}, input_shape=(8, 8), n_outputs=4, seed=0)
    return inspect_model(model, images(6, 8, 8), torch.arange(6) % 4, cross_entropy)


def test_stages_halve_the_image_and_blocks_add_what_went_in() -> None:
    args = {"channels": [3, 5, 7], "blocks": 2, "batch_norm": False}
    model = build("resnet", args, input_shape=(2, 9, 6), n_outputs=4, seed=0)
    stages = model.get_submodule("stages")
    assert isinstance(stages, nn.Sequential)
    x, shapes = images(2, 3, 9, 6), []
    for stage in stages:
        x = stage(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(3, 9, 6), (5, 5, 3), (7, 3, 2)]
    second = model.get_submodule("stages.1.1")
    with torch.no_grad():
        for name in ("conv2.weight", "conv2.bias"):
            second.get_parameter(name).zero_()
    x = images(2, 5, 5, 3)
    assert torch.equal(second(x), x.relu())


def test_without_batch_norm_channels_of_convolutions_are_searched() -> None:
    found = inspected(batch_norm=False)
    on = {site.site: (site.role, site.kinds[0]) for site in found.sites if site.recommended}
    assert on == {
        "stem.0:in": ("input", "element"), "stages.0.0.relu1:out": ("conv", "channel"),
        "stages.0.0.conv2:out": ("branch", "path"), "stages.0.0.relu2:out": ("conv", "channel"),
        "stages.1.0.relu1:out": ("conv", "channel"), "stages.1.0.conv2:out": ("branch", "path"),
        "head:in": ("head", "element"),
    }  # fmt: skip
    assert found.output_layers == ("head",)
    assert not [one for one in found.findings if one.code.startswith("batch-norm")]


def test_with_batch_norm_they_are_off_with_a_finding() -> None:
    found = inspected(batch_norm=True)
    conv = {site.site: site for site in found.sites if site.role == "conv"}
    assert set(conv) == {"stages.0.0.relu1:out", "stages.0.0.relu2:out", "stages.1.0.relu1:out"}
    assert not any(site.recommended for site in conv.values())
    assert all(site.kinds[0] == "channel" for site in conv.values())  # a user may switch them on
    told = {one.site for one in found.findings if one.code == "batch-norm-downstream"}
    assert set(conv) <= told
