from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pytest
import torch
from tests.trainer.fused.independent import train_alone
from torch import Tensor, nn

from dropt_trainer.fused.pack import Pack
from dropt_trainer.fused.slots import SlotTrial, data_order, planned_rates
from dropt_trainer.fused.step import Lane
from dropt_trainer.models import build
from dropt_trainer.optim import Family, Params
from dropt_trainer.schedules import Schedule
from dropt_trainer.sites.instrument import SitePort

N_ROWS, BATCH, N_CLASSES = 40, 16, 3
LR, PENALISED = Params(lr=0.01), Params(lr=0.01, weight_decay=0.1, l1=1e-3, l2=1e-3, clip=0.5)


@dataclass(frozen=True)
class Case:
    """A model with its sites."""

    model: str
    args: Mapping[str, object]
    kinds: Mapping[str, str]

    def factory(self, seed: int) -> nn.Module:
        return build(self.model, self.args, input_shape=(6, 6), n_outputs=N_CLASSES, seed=seed)

    @property
    def ports(self) -> list[SitePort]:
        return [SitePort(site, kind) for site, kind in self.kinds.items()]

    def trial(self, seed: int, params: Params = LR, *, rate: float = 0.3) -> SlotTrial:
        rates = {site: rate / (1 + i) for i, site in enumerate(self.kinds)}
        return SlotTrial(seed=seed, epochs=17, params=params, rates=rates)

    def pack(self, slots: int, lane: Lane = "fused", family: Family = "adamw") -> Pack:
        return Pack(
            self.factory, self.ports, slots=slots, optimizer=family, loss="cross_entropy",
            precision="float64", lane=lane,
        )  # fmt: skip


MLP = Case("mlp", {"hidden": [12, 10]}, {"layers.1:out": "element", "layers.3:out": "element"})
MLP_BN = Case("mlp", {"hidden": [9], "batch_norm": True}, {"layers.2:out": "element"})
CNN_BN = Case(
    "cnn",
    {"channels": [3, 4], "hidden": 8, "batch_norm": True},
    {"features.3:out": "channel", "features.6:out": "channel", "head.1:out": "element"},
)
CASES = {"mlp": MLP, "mlp with batch norm": MLP_BN, "cnn with batch norm": CNN_BN}


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N_ROWS, 6, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, N_CLASSES, (N_ROWS,), generator=generator)


def batches(seed: int, epoch: int) -> list[Tensor]:
    order = data_order(seed, epoch, N_ROWS)
    return [order[start : start + BATCH] for start in range(0, N_ROWS, BATCH)]


def train(pack: Pack, trials: Mapping[int, SlotTrial], epochs: range) -> dict[int, list[float]]:
    """The loss of every step of every trial by slot, each trial in its own order."""
    x, y = data()
    losses: dict[int, list[float]] = {slot: [] for slot in trials}
    held = [trials[slot] for slot in pack.filled]
    for epoch in epochs:
        plans = [planned_rates(trial, pack.ports, epoch=epoch, n_steps=3) for trial in held]
        rates = torch.stack(plans, dim=1)
        orders = zip(*(batches(trial.seed, epoch) for trial in held), strict=True)
        for step, rows in enumerate(orders):
            index = torch.stack(rows)
            values = pack.step(x[index], y[index], rates=rates[step]).tolist()
            for slot, value in zip(pack.filled, values, strict=True):
                losses[slot].append(value)
    return losses


def run(pack: Pack, trials: Mapping[int, SlotTrial]) -> dict[int, list[float]]:
    for slot, trial in trials.items():
        pack.load(slot, trial)
    return train(pack, trials, range(1, 18))


def independent(case: Case, trial: SlotTrial, family: Family) -> list[float]:
    x, y = data()
    model = case.factory(trial.seed).double()
    return train_alone(model, trial, case.kinds, x=x, y=y, batch_size=BATCH, family=family)


def early(trial: SlotTrial) -> SlotTrial:
    return replace(trial, schedules={site: Schedule("early", 4.0) for site in trial.rates})


@pytest.mark.parametrize("lane", ["fused", "solo"])
@pytest.mark.parametrize("family", ["adamw", "sgd"])
@pytest.mark.parametrize("name", CASES)
def test_each_slot_trains_as_an_independent_loop(name: str, family: Family, lane: Lane) -> None:
    case = CASES[name]
    trials = {
        0: case.trial(3),
        1: case.trial(2**40, PENALISED, rate=0.5),
        2: early(case.trial(5, PENALISED)),
        3: case.trial(3, rate=0.0),
    }
    losses = run(case.pack(4, lane, family), trials)
    for slot, trial in trials.items():
        expected = independent(case, trial, family)
        assert len(expected) == 51
        assert losses[slot] == pytest.approx(expected, rel=1e-9), f"slot {slot}"


BREAKS: dict[str, Callable[[SlotTrial], SlotTrial]] = {
    "another seed": lambda trial: replace(trial, seed=trial.seed + 1),
    "another rate": lambda trial: replace(trial, rates=dict.fromkeys(trial.rates, 0.31)),
    "a schedule": early,
    "another decay": lambda trial: replace(trial, params=Params(lr=0.01, weight_decay=1e-3)),
}


@pytest.mark.parametrize("name", BREAKS)
def test_the_comparison_sees_a_small_difference(name: str) -> None:
    trial = MLP.trial(3)
    losses = run(MLP.pack(1), {0: trial})[0]
    assert losses != pytest.approx(independent(MLP, BREAKS[name](trial), "adamw"), rel=1e-9)


def test_a_trial_goes_on_from_its_state_in_another_pack_and_lane() -> None:
    trial = MLP_BN.trial(7, PENALISED)
    whole = run(MLP_BN.pack(1), {0: trial})[0]
    first = MLP_BN.pack(3)
    strangers = {0: MLP_BN.trial(1), 2: trial, 1: MLP_BN.trial(2)}
    for slot, other in strangers.items():
        first.load(slot, other)
    start = train(first, strangers, range(1, 9))[2]
    second = MLP_BN.pack(2, "solo")
    second.load(1, trial)
    second.load_state(1, first.state(2))
    rest = train(second, {1: trial}, range(9, 18))[1]
    assert start + rest == pytest.approx(whole, rel=1e-9)


def test_the_state_dict_loads_strictly_into_the_users_own_model() -> None:
    pack = CNN_BN.pack(3)
    trials = {slot: CNN_BN.trial(slot) for slot in (2, 0, 1)}
    run(pack, trials)
    x, _ = data()
    outputs = pack.predict(pack.window([0, 2]), x)
    for output, slot in zip(outputs, (0, 2), strict=True):
        model = CNN_BN.factory(99).double()
        model.load_state_dict(pack.state_dict(slot), strict=True)
        torch.testing.assert_close(model.eval()(x), output, rtol=1e-10, atol=1e-12)


def test_predictions_are_without_dropout_and_change_nothing() -> None:
    pack = MLP_BN.pack(2)
    for slot, rate in enumerate((0.0, 0.9)):
        pack.load(slot, MLP_BN.trial(4, rate=rate))
    x, _ = data()
    before = pack.state(0)
    a, b = pack.predict(pack.window(), x)
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    after = pack.state(0)
    assert all(torch.equal(before.model[key], after.model[key]) for key in before.model)
    assert before.step == after.step == 0


def test_equal_seeds_share_their_initial_weights_whatever_the_arm() -> None:
    pack = MLP.pack(3)
    for slot, seed in enumerate((8, 8, 9)):
        pack.load(slot, MLP.trial(seed, rate=0.2 * slot))
    first, second, other = (pack.state_dict(slot) for slot in range(3))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["layers.0.weight"], other["layers.0.weight"])


def test_initial_weights_in_float32_and_float64_are_the_same_numbers() -> None:
    wide = MLP.pack(1)
    narrow = Pack(MLP.factory, MLP.ports, slots=1, optimizer="adamw", loss="cross_entropy")
    for pack in (wide, narrow):
        pack.load(0, MLP.trial(8))
    a, b = wide.state_dict(0), narrow.state_dict(0)
    assert all(torch.equal(a[key], b[key].double()) for key in a)


def test_a_slot_that_is_filled_or_does_not_exist_is_refused() -> None:
    pack = MLP.pack(2)
    pack.load(1, MLP.trial(0))
    assert pack.free == {0}
    for slot in (1, 2, -1):
        with pytest.raises(ValueError, match=rf"slot {slot} is not free; free are \[0\]"):
            pack.load(slot, MLP.trial(1))


def test_a_trial_that_does_not_fit_leaves_the_pack_as_it_was() -> None:
    pack = MLP.pack(1)
    with pytest.raises(ValueError, match="no:out"):
        pack.load(0, SlotTrial(seed=0, epochs=1, params=LR, rates={"no:out": 0.1}))
    assert pack.filled == []
    pack.load(0, MLP.trial(0))


def test_frozen_parameters_are_shared_and_never_change() -> None:
    def factory(seed: int) -> nn.Module:
        model = MLP.factory(seed)
        frozen = build("mlp", MLP.args, input_shape=(6, 6), n_outputs=N_CLASSES, seed=0)
        body = model.get_submodule("layers.0")
        body.load_state_dict(frozen.get_submodule("layers.0").state_dict())
        body.requires_grad_(False)
        return model

    pack = Pack(factory, MLP.ports, slots=2, optimizer="adamw", loss="cross_entropy",
                precision="float64")  # fmt: skip
    losses = run(pack, {0: MLP.trial(1, PENALISED), 1: MLP.trial(2, PENALISED)})
    assert pack.rows.weight.shape[1] == 12 * 10 + 10 + 10 * 3 + 3
    assert losses[0][0] != losses[1][0]
    for slot in (0, 1):
        state, start = pack.state_dict(slot), factory(slot + 1).double().state_dict()
        assert torch.equal(state["layers.0.weight"], start["layers.0.weight"])
        assert not torch.equal(state["layers.2.weight"], start["layers.2.weight"])


class Named(nn.Module):
    """The multilayer perceptron on an input by name."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.inner = MLP.factory(seed)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        out: Tensor = self.inner(x["image"] + x["shift"].view(-1, 1, 1))
        return out


def test_inputs_by_name_train_as_one_tensor_does() -> None:
    x, y = data()
    ports = [SitePort(f"inner.{port.site}", port.kind) for port in MLP.ports]
    trials = [replace(MLP.trial(seed), rates={}) for seed in (1, 2)]
    plain, named = MLP.pack(2), Pack(
        Named, ports, slots=2, optimizer="adamw", loss="cross_entropy", precision="float64"
    )  # fmt: skip
    for pack in (plain, named):
        for slot, trial in enumerate(trials):
            pack.load(slot, trial)
    two = x[:BATCH].expand(2, BATCH, 6, 6)
    target, shift = y[:BATCH].expand(2, BATCH), torch.full((2, BATCH), 0.5, dtype=torch.float64)
    for _ in range(3):
        expected = plain.step(two + 0.5, target)
        losses = named.step({"image": two, "shift": shift}, target)
        torch.testing.assert_close(losses, expected, rtol=1e-12, atol=0)
    one = named.predict(named.window(), {"image": x, "shift": shift[0, :1].expand(N_ROWS)})
    torch.testing.assert_close(one, plain.predict(plain.window(), x + 0.5), rtol=1e-10, atol=1e-12)
