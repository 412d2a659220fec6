"""Mixed precision on a CPU's autocast, which has the same rules as CUDA's."""

from typing import Any

import pytest
import torch
from tests.trainer.fused.test_pack import CNN_BN, MLP, Case
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from dropt_trainer.fused.pack import Pack
from dropt_trainer.fused.step import Lane

BF16 = 2.0**-8  # relative rounding of one operation


def pack_of(case: Case, precision: str, lane: Lane = "fused") -> Pack:
    pack = Pack(
        case.factory, case.ports, slots=2, optimizer="adamw", loss="cross_entropy",
        precision=precision, lane=lane,
    )  # fmt: skip
    for slot in range(2):
        pack.load(slot, case.trial(slot))
    return pack


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(2, 16, 6, 6, generator=generator)
    return x, torch.randint(0, 3, (2, 16), generator=generator)


@pytest.mark.parametrize("case", [MLP, CNN_BN])
@pytest.mark.parametrize("lane", ["fused", "solo"])
def test_mixed_precision_is_close_to_float32_and_not_the_same(case: Case, lane: Lane) -> None:
    mixed, plain = pack_of(case, "bfloat16", lane), pack_of(case, "float32")
    for step in range(4):
        ours, theirs = mixed.step(*batch(step)), plain.step(*batch(step))
        assert ours.dtype == torch.float32
        assert not torch.equal(ours, theirs)
        # Some ten roundings one after the other, then four steps of Adam at lr 0.01.
        torch.testing.assert_close(ours, theirs, rtol=20 * BF16, atol=0.0)


def test_weights_moments_and_predictions_stay_in_float32() -> None:
    pack = pack_of(CNN_BN, "bfloat16")
    pack.step(*batch(0))
    state = pack.state(0)
    assert {t.dtype for t in state.moments} == {torch.float32}
    assert {t.dtype for t in state.model.values()} == {torch.float32, torch.int64}
    output = pack.predict(pack.window(), batch(0)[0][0])
    assert output.dtype == torch.float32
    assert torch.equal(output, pack.predict(pack.window(), batch(0)[0][0]))


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's own
    """Notes the types of matrix products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's own
        self.dtypes: list[torch.dtype] = []

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.bmm, torch.ops.aten.mm, torch.ops.aten.addmm):
            self.dtypes.append(result.dtype)
        return result


@pytest.mark.parametrize("lane", ["fused", "solo"])
def test_products_are_computed_in_bfloat16_forward_and_back(lane: Lane) -> None:
    with Products() as products:
        pack_of(MLP, "bfloat16", lane).step(*batch(0))
    assert set(products.dtypes) == {torch.bfloat16}
    assert len(products.dtypes) >= 8  # three layers, of which the first needs no gradient of x


def test_masks_are_the_same_in_every_precision() -> None:
    packs = [pack_of(MLP, precision) for precision in ("float32", "bfloat16")]
    x, y = batch(0)
    for pack in packs:
        pack.rows.rates.fill_(0.5)
        pack.step(x[:, :1], y[:, :1])
    # With one example, a unit that is dropped has no gradient at all.
    zeros = [pack.rows.gradient == 0 for pack in packs]
    assert 0.3 < float(zeros[0].double().mean()) < 0.95
    assert torch.equal(*zeros)
