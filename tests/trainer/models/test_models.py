"""Reference models: shapes, arguments, and weights that depend on the seed alone."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dropt_trainer.models import MODELS, args_schema, build, tasks, validate_args


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("n_outputs", [1, 10])
@pytest.mark.parametrize(
    ("name", "input_shape"),
    [("mlp", (64,)), ("mlp", (30,)), ("mlp", (3, 8, 8)), ("cnn", (64,)), ("cnn", (784,)),
     ("cnn", (8, 8)), ("cnn", (3, 9, 7)), ("cnn", (1, 2, 2)), ("resnet", (64,)),
     ("resnet", (8, 8)), ("resnet", (3, 9, 7)), ("resnet", (1, 2, 2))],
)  # fmt: skip
@pytest.mark.parametrize("batch_norm", [False, True])
def test_output_has_one_row_per_example(
    name: str, input_shape: tuple[int, ...], n_outputs: int, batch_norm: bool
) -> None:
    args = {"batch_norm": batch_norm}
    model = build(name, args, input_shape=input_shape, n_outputs=n_outputs, seed=0)
    output = model(normal(5, *input_shape))
    assert output.shape == (5, n_outputs)
    assert (
        any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in model.modules()) == batch_norm
    )


def test_mlp_is_one_sequential_called_layers() -> None:
    model = build("mlp", {"hidden": [7, 5]}, input_shape=(4,), n_outputs=2, seed=0)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert shapes == {
        "layers.0.weight": (7, 4), "layers.0.bias": (7,), "layers.2.weight": (5, 7),
        "layers.2.bias": (5,), "layers.4.weight": (2, 5), "layers.4.bias": (2,),
    }  # fmt: skip


def test_pixels_in_a_row_are_the_same_image_in_rows() -> None:
    flat, square = (
        build("cnn", {}, input_shape=shape, n_outputs=3, seed=4) for shape in ((64,), (8, 8))
    )
    x = normal(5, 64)
    assert torch.equal(flat(x), square(x.view(5, 8, 8)))


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_a_function_of_the_seed_alone(name: str) -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        return build(name, {}, input_shape=(64,), n_outputs=10, seed=seed).state_dict()

    first = weights(2**53 - 1)
    torch.rand(7)  # what was drawn before does not matter
    again, other = weights(2**53 - 1), weights(8)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_building_leaves_torchs_generator_alone() -> None:
    before = torch.get_rng_state()
    build("mlp", {}, input_shape=(64,), n_outputs=10, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_selu_layers_keep_the_variance_of_a_standard_input() -> None:
    """Klambauer et al. 2017: the fixed point is mean 0, variance 1; 16 layers of 256 units."""
    args = {"hidden": [256] * 16, "activation": "selu"}
    model = build("mlp", args, input_shape=(256,), n_outputs=10, seed=2)
    layers = model.get_submodule("layers")
    assert isinstance(layers, nn.Sequential)
    with torch.no_grad():
        hidden = layers[:-1](normal(500, 256))
    assert abs(float(hidden.mean())) < 0.1
    assert 0.7 < float(hidden.var()) < 1.3


@pytest.mark.parametrize("name", ["cnn", "resnet"])
@pytest.mark.parametrize("shape", [(30,), (1,), (2, 3, 4, 5)])
def test_data_without_images_is_told_what_to_do(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"'{name}' needs images: .* has shape .* 'mlp'"):
        build(name, {}, input_shape=shape, n_outputs=2, seed=0)


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
@pytest.mark.parametrize("form", [{"n_tokens": 4}, {"input_names": ("x", "mask")}])
def test_models_of_tables_and_images_take_one_tensor_of_numbers(
    name: str, form: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=rf"'{name}' takes one tensor.* lstm, gru, transformer"):
        build(name, {}, input_shape=(64,), n_outputs=2, seed=0, **form)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("mlp", {"hiden": [3]}, r'Unknown argument "hiden"; .* hidden, batch_norm, activation'),
        ("mlp", {"hidden": [3, 0]}, r'"hidden.1": .*greater than or equal to 1, received 0'),
        ("mlp", {"hidden": 128}, r'"hidden": .*valid array, received 128'),
        ("mlp", {"hidden": [64.5]}, r'"hidden.0": .*valid integer, received 64.5'),
        ("mlp", {"hidden": [8] * 17}, r'"hidden": .*at most 16 items'),
        ("mlp", {"batch_norm": 1}, r'"batch_norm": .*valid boolean, received 1'),
        ("mlp", {"activation": "swish"}, r"'relu', 'gelu', 'selu' or 'tanh', received \"swish\""),
        ("mlp", {"input_shape": [3]}, r'Unknown argument "input_shape"'),
        ("cnn", {"channels": []}, r'"channels": .*at least 1 item'),
        ("cnn", {"kernel_size": 4}, r'"kernel_size": .*1, 3, 5, 7, 9 or 11, received 4'),
        ("resnext", {}, r'Unknown model "resnext"; the models are mlp, cnn, resnet'),
    ],
)
def test_wrong_arguments_name_the_field_the_value_and_what_is_allowed(
    name: str, args: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        validate_args(name, args)
    with pytest.raises(ValueError, match=message):
        build(name, args, input_shape=(64,), n_outputs=3, seed=0)


def test_valid_arguments_come_back_with_defaults() -> None:
    assert validate_args("mlp", {"hidden": [9]}) == {
        "hidden": [9], "batch_norm": False, "activation": "relu",
    }  # fmt: skip
    assert validate_args("cnn", {})["channels"] == [16, 32]


def test_defaults_are_not_shared_between_builds() -> None:
    hidden = validate_args("mlp", {})["hidden"]
    assert isinstance(hidden, list)
    hidden.append(3)
    assert validate_args("mlp", {})["hidden"] == [128, 64]


def test_schema_is_that_of_the_signature() -> None:
    schema = args_schema("mlp")
    assert schema["additionalProperties"] is False
    assert schema["properties"] == {
        "hidden": {
            "type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 65536},
            "maxItems": 16, "default": [128, 64],
        },
        "batch_norm": {"type": "boolean", "default": False},
        "activation": {
            "type": "string", "enum": ["relu", "gelu", "selu", "tanh"], "default": "relu",
        },
    }  # fmt: skip
    assert set(args_schema("cnn")["properties"]) == {
        "channels", "hidden", "batch_norm", "kernel_size",
    }  # fmt: skip


def test_sequence_models_tell_the_next_token_too() -> None:
    both = ("classification", "regression")
    assert {name: tasks(name) for name in MODELS} == {
        "mlp": both, "cnn": both, "resnet": both, "lstm": (*both, "next_token"),
        "gru": (*both, "next_token"), "transformer": (*both, "next_token"),
    }  # fmt: skip


def test_what_the_data_says_is_no_argument() -> None:
    for name in MODELS:
        named = set(args_schema(name)["properties"])
        assert not named & {"input_shape", "n_outputs", "task", "n_tokens", "input_names"}
