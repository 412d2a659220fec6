"""A user's own factory: its arguments, its weights, and what is wrong with it in words."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from dropt_trainer.models.arguments import arguments_schema
from dropt_trainer.models.own import OwnModelError, adapt, build_own, check_repeatable

DATA = {"input_shape": (4,), "n_outputs": 3, "task": "classification", "n_tokens": None,
        "input_names": ()}  # fmt: skip


class Net(nn.Module):
    def __init__(
        self, input_shape: tuple[int, ...], n_outputs: int, hidden: tuple[int, ...] = (8,),
        activation: type[nn.Module] = nn.ReLU, scale: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.first = nn.Linear(input_shape[0], hidden[0])
        self.act = activation()
        self.last = nn.Linear(hidden[0], n_outputs)


def plain(width=8):  # type: ignore[no-untyped-def]  # as a user may write it
    return nn.Linear(4, width)


def test_class_is_a_factory_whose_typed_arguments_become_a_schema() -> None:
    schema = arguments_schema(adapt(Net, "Net"))
    assert set(schema["properties"]) == {"hidden", "scale"}
    assert schema["properties"]["hidden"]["items"] == {"type": "integer"}
    assert schema["properties"]["scale"]["type"] == "number"
    assert schema["additionalProperties"] is False


def test_argument_without_annotation_has_the_type_of_its_default() -> None:
    assert arguments_schema(adapt(plain, "plain"))["properties"]["width"]["type"] == "integer"


@pytest.mark.parametrize("factory", [Net, partial(Net, scale=2.0)])
def test_data_and_job_give_what_the_factory_names(factory: Callable[..., nn.Module]) -> None:
    model = build_own(adapt(factory, "Net"), {"hidden": [5]}, DATA, seed=0)
    assert isinstance(model, Net)
    assert model.last.weight.shape == (3, 5)


def test_weights_are_a_function_of_the_seed_and_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    one, same, other = (
        build_own(adapt(Net, "Net"), {}, DATA, seed=seed).state_dict() for seed in (1, 1, 2)
    )
    assert torch.equal(one["first.weight"], same["first.weight"])
    assert not torch.equal(one["first.weight"], other["first.weight"])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"hiden": [3]}, 'Unknown argument "hiden"; the arguments are hidden, scale'),
        ({"hidden": "wide"}, 'Argument "hidden"'),
        ({"scale": "big"}, 'Argument "scale"'),
    ],
)
def test_argument_that_is_not_allowed_is_named(args: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build_own(adapt(Net, "Net"), args, DATA, seed=0)


def test_factory_that_needs_what_json_cannot_hold_is_refused() -> None:
    def needs_module(activation: nn.Module) -> nn.Module:
        return activation

    with pytest.raises(OwnModelError, match="needs the argument 'activation'"):
        adapt(needs_module, "needs_module")


def test_what_is_no_factory_is_refused() -> None:
    with pytest.raises(OwnModelError, match="table is dict, and no factory"):
        adapt({}, "table")


def test_factory_that_raises_or_returns_no_model_says_so() -> None:
    def raises() -> nn.Module:
        raise KeyError("weights")

    with pytest.raises(OwnModelError, match="raises raises KeyError: 'weights'"):
        build_own(adapt(raises, "raises"), {}, DATA, seed=0)
    with pytest.raises(OwnModelError, match="nothing returns NoneType"):
        build_own(adapt(lambda: None, "nothing"), {}, DATA, seed=0)


def test_model_without_parameters_is_refused() -> None:
    with pytest.raises(OwnModelError, match="no parameter to train"):
        check_repeatable(lambda seed: nn.ReLU(), "relu")


def test_weights_from_another_generator_are_noticed() -> None:
    generator = np.random.default_rng(0)

    def factory() -> nn.Module:
        model = nn.Linear(2, 2)
        nn.init.constant_(model.bias, float(generator.normal()))
        return model

    build = adapt(factory, "factory")
    with pytest.raises(OwnModelError, match="models that differ, first in bias"):
        check_repeatable(lambda seed: build_own(build, {}, DATA, seed=seed), "factory")
