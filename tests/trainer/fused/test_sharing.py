"""Shared memory of recordings: as little as is needed at a time, and never a wrong number."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dropt_trainer.fused.replay import Recording

SIZE = 64
BYTES = SIZE * SIZE * 4


def chain(x: Tensor) -> Tensor:
    for _ in range(6):
        x = (x @ x).relu()
    return x


def fork(x: Tensor) -> Tensor:
    """What is read again later must not be overwritten by what comes between."""
    a = x * 2
    b = a.relu()
    c = b + 1
    return (a @ c) + b.t() + a


def transposed(x: Tensor) -> Tensor:
    """Pointwise, but number (i, j) reads number (j, i)."""
    a = x + 1
    return (a + a.t()).relu()


def narrowed(x: Tensor) -> Tensor:
    a = x + 1
    return (a[:, : SIZE // 2] * 2) @ a[: SIZE // 2]


def typed(x: Tensor) -> Tensor:
    """Numbers of other sizes than those they are made from."""
    large = (x.double() + 1).sqrt().nan_to_num()
    return large.float() * (large > 1)


def grown(x: Tensor) -> Tensor:
    a = torch.zeros(SIZE, SIZE)
    a[:3] = x[:3] * 2
    return a.index_add(0, torch.tensor([1, 1]), x[:2]) + a


@pytest.mark.parametrize("function", [chain, fork, transposed, narrowed, typed, grown])
def test_shared_memory_changes_no_bit(function: Callable[[Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SIZE, SIZE, generator=generator)
    recording = Recording(lambda: [function(x)], [x])
    for _ in range(2):
        x.normal_(generator=generator)
        recording.run()
        assert torch.equal(recording.results[0], function(x))


def test_a_chain_needs_two_pieces_whatever_its_length() -> None:
    x = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    assert Recording(lambda: [chain(chain(x))], [x]).n_bytes == 2 * BYTES


def test_an_operation_by_numbers_writes_where_it_reads() -> None:
    x = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    assert Recording(lambda: [(x + 1).relu().exp().neg().sum()], [x]).n_bytes == BYTES
