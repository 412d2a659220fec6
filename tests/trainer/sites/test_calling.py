"""How a model is called on inputs by name, and what of its output is trained."""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from dropt_trainer.sites.calling import arguments_of, primary_output
from dropt_trainer.sites.ports import SiteError

IDS, MASK = torch.ones(2, 3).long(), torch.ones(2, 3)


class Named(nn.Module):
    def forward(self, ids: Tensor, mask: Tensor, labels: Tensor | None = None) -> Tensor:
        return ids * mask


class One(nn.Module):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["ids"]


def test_inputs_by_name_go_to_parameters_of_these_names() -> None:
    args, kwargs = arguments_of(Named(), {"mask": MASK, "ids": IDS})
    assert args == ()
    assert torch.equal(Named()(*args, **kwargs), IDS * MASK)


def test_a_mapping_is_one_argument_where_names_differ() -> None:
    x = {"ids": IDS, "mask": MASK}
    assert arguments_of(One(), x) == ((x,), {})
    assert arguments_of(Named(), IDS) == ((IDS,), {})


@pytest.mark.parametrize(
    "output",
    [
        MASK,
        (MASK, IDS),
        [IDS, MASK],
        {"hidden": torch.zeros(1), "logits": MASK},
        OrderedDict(loss=torch.zeros(()), logits=MASK),
        {"last_hidden_state": MASK, "cache": None},
        (IDS, {"states": (MASK,)}),
    ],
)
def test_logits_or_the_first_real_tensor_are_trained(output: object) -> None:
    assert primary_output(output) is MASK


@pytest.mark.parametrize("output", [None, "text", {"ids": IDS}, ()])
def test_output_without_a_real_tensor_is_refused(output: object) -> None:
    with pytest.raises(SiteError, match="returns no float tensor"):
        primary_output(output)
