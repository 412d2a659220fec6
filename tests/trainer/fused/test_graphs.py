"""What surrounds a graph of the device; a recording of operations takes the place of CUDA's."""

import logging
from collections.abc import Callable

import pytest
import torch
from tests.trainer.fused.test_pack import CNN_BN, MLP, PENALISED, Case
from torch import Tensor, nn

from dropt_trainer.fused.graphs import Graphs, HostReads, bucket
from dropt_trainer.fused.pack import Pack
from dropt_trainer.fused.replay import Recording
from dropt_trainer.models import build
from dropt_trainer.optim import Family, Params
from dropt_trainer.sites.instrument import SitePort

SLOTS = 4


def graphed(case: Case) -> Pack:
    """A pack that does as on CUDA, in float64: a recording holds torch's operations alone."""
    return with_graphs(case.pack(SLOTS))


def with_graphs(pack: Pack) -> Pack:
    pack._train._records = False
    pack.graphs = Graphs(
        pack._step, n_slots=pack.n_slots, capture=Recording,
        varying=(*pack.rows.all, pack.rows.gradient, *pack.optimizer.rows),
    )  # fmt: skip
    return pack


def fill(pack: Pack, case: Case, slots: range, params: Params = PENALISED) -> None:
    for slot in slots:
        pack.load(slot, case.trial(slot, params))


def batch(n_rows: int, step: int, size: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(SLOTS, size, 6, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (SLOTS, size), generator=generator)
    return x[:n_rows], y[:n_rows]


@pytest.mark.parametrize("case", [MLP, CNN_BN])
def test_steps_from_graphs_are_the_steps_of_the_pack(case: Case) -> None:
    plain, pack = case.pack(SLOTS), graphed(case)
    for each in (plain, pack):
        fill(each, case, range(SLOTS))
    for step in range(6):
        x, y = batch(SLOTS, step, size=8 if step % 3 else 5)
        torch.testing.assert_close(pack.step(x, y), plain.step(x, y), rtol=1e-12, atol=0.0)
    for slot in range(SLOTS):
        ours, theirs = pack.state(slot), plain.state(slot)
        torch.testing.assert_close(ours.model, theirs.model, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(ours.moments, theirs.moments, rtol=1e-10, atol=1e-12)
        assert ours.step == theirs.step == 6
    assert pack.refusal == ""


def test_refills_new_rates_and_settings_need_no_capture() -> None:
    plain, pack = MLP.pack(SLOTS), graphed(MLP)
    for each in (plain, pack):
        fill(each, MLP, range(SLOTS))
    for step in range(9):
        x, y = batch(SLOTS, step)
        rates = torch.full((SLOTS, 2), 0.1 * (step % 4))
        losses = pack.step(x, y, rates=rates)
        torch.testing.assert_close(losses, plain.step(x, y, rates=rates), rtol=1e-12, atol=0.0)
        if step in (2, 5):
            for each in (plain, pack):
                each.clear(step % SLOTS)
                each.load(step % SLOTS, MLP.trial(100 + step, Params(lr=0.003, clip=0.1)))
    assert pack.graphs is not None
    assert pack.graphs.n_captures == 1


def test_a_pack_that_shrinks_stays_in_the_graph_of_its_bucket() -> None:
    plain, pack = MLP.pack(SLOTS), graphed(MLP)
    for each in (plain, pack):
        fill(each, MLP, range(SLOTS))
    for step in range(8):
        if step == 3:
            for each in (plain, pack):
                each.clear(1)
        n_rows = len(pack.filled)
        x, y = batch(n_rows, step)
        losses = pack.step(x, y)
        assert losses.shape == (n_rows,)
        torch.testing.assert_close(losses, plain.step(x, y), rtol=1e-12, atol=0.0)
    assert pack.graphs is not None
    assert pack.graphs.n_captures == 1


def test_each_bucket_and_batch_size_is_captured_once() -> None:
    pack = graphed(MLP)
    fill(pack, MLP, range(SLOTS))
    for step in range(12):
        if step == 6:
            pack.clear(0)
            pack.clear(1)
        pack.step(*batch(len(pack.filled), step, size=8 if step % 3 else 5))
    assert pack.graphs is not None
    assert pack.graphs.n_captures == 4


@pytest.mark.parametrize(("n_rows", "width"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 6), (6, 6)])
def test_buckets_are_powers_of_two_or_all_slots(n_rows: int, width: int) -> None:
    assert bucket(n_rows, 6) == width


class Branching(nn.Module):
    """Looks at a number in each forward, for which the host has to wait."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x)
        return y if float(y.detach().sum()) < 1e9 else -y


class Counting(nn.Module):
    """Depends on how often it was called, which no graph can know."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.n_calls = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.n_calls += 1
        y: Tensor = self.model(x) * (1.0 + 0.1 * self.n_calls)
        return y


def wrapped(wrapper: type[Branching] | type[Counting], *, graphs: bool) -> Pack:
    def factory(seed: int) -> nn.Module:
        args = {"hidden": [5]}
        return wrapper(build("mlp", args, input_shape=(6, 6), n_outputs=3, seed=seed))

    pack = Pack(
        factory, [SitePort("model.layers.1:out", "element")], slots=1, optimizer="adamw",
        loss="cross_entropy", precision="float64", lane="solo",
    )  # fmt: skip
    fill(pack, Case("", {}, {"model.layers.1:out": "element"}), range(1))
    return with_graphs(pack) if graphs else pack


def test_a_step_for_which_the_host_waits_is_not_captured(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    plain, pack = wrapped(Branching, graphs=False), wrapped(Branching, graphs=True)
    for step in range(4):
        x, y = batch(1, step)
        assert torch.equal(pack.step(x, y), plain.step(x, y))
    assert pack.graphs is not None
    assert pack.graphs.n_captures == 0
    assert pack.refusal == "aten._local_scalar_dense.default looks at the numbers in a tensor"
    assert [r.message for r in caplog.records if r.message.startswith("graph.")] == [
        "graph.refused"
    ]


def test_a_graph_that_differs_from_pytorch_is_dropped() -> None:
    pack = wrapped(Counting, graphs=True)
    for step in range(3):
        pack.step(*batch(1, step))
    assert pack.refusal == "the graph of a step gave other numbers than PyTorch"


LSTM = Case("lstm", {"hidden": 5}, {"rnn:out": "locked"})
TRANSFORMER = Case(
    "transformer", {"width": 8, "heads": 2, "depth": 1, "feedforward": 8},
    {"blocks.0.feedforward.1:out": "element"},
)  # fmt: skip


@pytest.mark.parametrize("family", ["adamw", "sgd"])
@pytest.mark.parametrize("case", [MLP, CNN_BN, LSTM, TRANSFORMER])
def test_nothing_in_a_step_makes_the_host_wait(case: Case, family: Family) -> None:
    pack = case.pack(SLOTS, family=family)
    pack._train._records = False  # as on CUDA: checks of recordings look at numbers
    fill(pack, case, range(SLOTS))
    with HostReads() as reads:
        for step in range(3):
            pack.step(*batch(SLOTS, step), rates=torch.zeros(SLOTS, len(case.ports)))
    assert reads.found == ""


@pytest.mark.parametrize("look", [torch.Tensor.item, torch.nonzero])
def test_looks_at_numbers_are_found(look: Callable[[Tensor], object]) -> None:
    with HostReads() as reads:
        look(torch.ones(1) * 2)
    assert reads.found.endswith(" looks at the numbers in a tensor")


def test_copies_from_one_device_to_another_are_found() -> None:
    with HostReads() as reads:
        torch.ones(3).to("meta")
    assert reads.found == "aten._to_copy.default copies between the host and the device"


@pytest.mark.gpu
def test_cuda_graphs_are_captured_once_and_give_the_numbers_of_eager() -> None:
    def pack(*, graphs: bool) -> Pack:
        made = Pack(
            MLP.factory, MLP.ports, slots=SLOTS, optimizer="adamw", loss="cross_entropy",
            device="cuda",
        )  # fmt: skip
        made.graphs = made.graphs if graphs else None
        fill(made, MLP, range(SLOTS))
        return made

    plain, captured = pack(graphs=False), pack(graphs=True)
    for step in range(8):
        x, y = (t.cuda() for t in batch(SLOTS, step))
        x = x.float()
        torch.testing.assert_close(captured.step(x, y), plain.step(x, y), rtol=1e-5, atol=1e-6)
    assert captured.graphs is not None
    assert (captured.graphs.n_captures, captured.refusal) == (1, "")
