"""Hooks of hook ports on sequences of unequal length."""

import pytest
import torch
from tests.trainer.sites.packs import trial
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from dropt_trainer.sites.instrument import SitePort

LENGTHS = torch.tensor([3, 6, 1, 5])


class Inner(nn.Module):
    """Hands its input on, as it is or packed in front of a state."""

    def __init__(self, *, with_state: bool = False) -> None:
        super().__init__()
        self.with_state = with_state

    def forward(self, x: PackedSequence) -> PackedSequence | tuple[PackedSequence, str]:
        return (x, "state") if self.with_state else x


def dropped(port: str, kind: str, *, with_state: bool = False, rate: float = 0.5) -> Tensor:
    """Ones [4, 6, 40] in examples of unequal length, after dropout; -1 behind their ends."""
    model = trial(
        lambda: nn.Sequential(Inner(with_state=with_state)), [SitePort(f"0:{port}", kind)], [rate]
    )
    ones = torch.ones(4, 6, 40, dtype=torch.float64)
    packed = pack_padded_sequence(ones, LENGTHS, batch_first=True, enforce_sorted=False)
    result = model(packed)
    if with_state:
        result, state = result
        assert state == "state"
    assert isinstance(result, PackedSequence)
    padded, lengths = pad_packed_sequence(result, batch_first=True, padding_value=-1.0)
    assert torch.equal(lengths, LENGTHS)
    assert bool((padded[2, 1:] == -1).all())
    return padded


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("port", ["in", "out"])
def test_units_of_a_packed_sequence_fall_one_by_one(port: str, with_state: bool) -> None:
    padded = dropped(port, "element", with_state=with_state)
    real = padded[padded >= 0]
    assert set(real.tolist()) == {0.0, 2.0}
    share = float((real == 0).double().mean())  # of 600; 4 standard errors
    assert abs(share - 0.5) < 4 * (0.25 / real.numel()) ** 0.5
    assert not torch.equal(padded[1, 0], padded[1, 1])


def test_locked_units_fall_at_every_step_of_an_example() -> None:
    padded = dropped("out", "locked")
    for example, length in zip(padded, LENGTHS.tolist(), strict=True):
        assert torch.equal(example[:length], example[:1].expand(length, -1))
        assert set(example[0].tolist()) == {0.0, 2.0}
    assert len({tuple(example[0].tolist()) for example in padded}) == 4


def test_positions_of_a_packed_sequence_fall_as_a_whole() -> None:
    padded = dropped("out", "token")
    assert torch.equal(padded, padded[..., :1].expand_as(padded))
    assert set(padded[1, :, 0].tolist()) == {0.0, 2.0}


def test_examples_of_a_packed_sequence_fall_as_a_whole() -> None:
    padded = dropped("out", "path")
    for example, length in zip(padded, LENGTHS.tolist(), strict=True):
        assert len(set(example[:length].flatten().tolist())) == 1


def test_channels_of_a_packed_sequence_are_refused() -> None:
    with pytest.raises(ValueError, match="'channel' does not fit a PackedSequence"):
        dropped("out", "channel")


@pytest.mark.parametrize("kind", ["element", "locked", "path", "token", "alpha"])
def test_at_rate_zero_a_packed_sequence_is_what_it_was(kind: str) -> None:
    padded = dropped("in", kind, rate=0.0)
    assert set(padded.flatten().tolist()) == {1.0, -1.0}
