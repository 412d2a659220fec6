import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from tests.trainer.fused.independent import train_alone
from torch import nn

from dropt_trainer.data.dataset import Dataset
from dropt_trainer.data.prepare import Prepared, prepare
from dropt_trainer.data.splits import hash_split
from dropt_trainer.fused.driver import Driver, EpochEnd, batch_ends
from dropt_trainer.fused.pack import Pack
from dropt_trainer.fused.slots import SlotTrial
from dropt_trainer.fused.step import Lane
from dropt_trainer.models import build
from dropt_trainer.optim import Params
from dropt_trainer.schedules import Schedule
from dropt_trainer.sites.instrument import SitePort

N_ROWS, N_CLASSES = 60, 3
PORTS = (SitePort("layers.2:out", "element"), SitePort("layers.5:out", "element"))
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def factory(seed: int) -> nn.Module:
    args = {"hidden": [12, 8], "batch_norm": True}
    return build("mlp", args, input_shape=(5,), n_outputs=N_CLASSES, seed=seed)


def plain_factory(seed: int) -> nn.Module:
    """As `factory` without batch norm, under the same names of sites."""
    model = factory(seed)
    layers = model.get_submodule("layers")
    for name in ("1", "4"):
        setattr(layers, name, nn.Identity())
    return model


def classification(dtype: torch.dtype) -> Prepared:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N_ROWS, 5, generator=generator)
    y = (x[:, 0] + 0.5 * torch.randn(N_ROWS, generator=generator)).gt(0).long() + (x[:, 1] > 1)
    dataset = Dataset(x, y, "classification", N_CLASSES, group=torch.arange(N_ROWS) // 2)
    split = hash_split(N_ROWS, seed=0, train=0.6, validation=0.2)
    return prepare(dataset, split, parts=("validation", "test"), dtype=dtype)


def driver(
    slots: int,
    lane: Lane = "fused",
    *,
    precision: str = "float64",
    objective: str = "nll",
    keep_best: bool = True,
    model: Callable[[int], nn.Module] = factory,
) -> Driver:
    pack = Pack(model, PORTS, slots=slots, optimizer="adamw", loss="cross_entropy",
                precision=precision, lane=lane)  # fmt: skip
    return Driver(
        pack, classification(DTYPES[precision]), batch_size=16, objective=objective,
        direction="maximize" if objective == "accuracy" else "minimize",
        metrics=["accuracy"], keep_best=keep_best,
    )  # fmt: skip


def trial(seed: int, epochs: int = 17, *, lr: float = 0.01, rate: float = 0.3) -> SlotTrial:
    rates = {"layers.2:out": rate, "layers.5:out": rate / 2}
    return SlotTrial(seed, epochs, Params(lr=lr, weight_decay=0.05), rates)


def numbers(end: EpochEnd) -> list[float]:
    validation = end.validation
    return [end.train_loss, validation.loss, validation.metrics["accuracy"], end.best_epoch]


def alone(asked: SlotTrial, lane: Lane = "solo") -> list[list[float]]:
    """What each epoch of a trial gives when nobody else is there."""
    one = driver(1, lane)
    one.load(0, asked)
    return [numbers(one.run_epoch()[0]) for _ in range(asked.epochs)]


def in_a_crowd(asked: SlotTrial, n_slots: int) -> list[list[float]]:
    """The same in a pack with strangers of other ages, who end and are replaced all the time."""
    crowd = driver(n_slots)
    free, stranger = set(range(n_slots)), 1000
    seen: list[list[float]] = []
    mine = n_slots // 2
    while len(seen) < asked.epochs:
        for slot in sorted(free, reverse=True):
            if slot == mine and stranger >= 1000 + n_slots:
                crowd.load(slot, asked)
            else:
                crowd.load(slot, trial(stranger, 1 + stranger % 4, rate=stranger % 9 / 10))
            stranger += 1
        ends = crowd.run_epoch()
        held = {slot: crowd.slots[slot].trial for slot in crowd.slots}
        seen += [numbers(end) for end in ends if held[end.slot] == asked]
        free = {end.slot for end in ends if end.state == "finished"}
        for slot in free:
            crowd.clear(slot)
    return seen


@pytest.mark.parametrize("n_slots", [2, 5, 16])
@pytest.mark.slow
def test_a_trial_in_a_crowd_is_the_trial_alone(n_slots: int) -> None:
    asked = replace(trial(42), schedules={"layers.5:out": Schedule("ramp", 6.0)})
    expected, seen = alone(asked), in_a_crowd(asked, n_slots)
    assert len(seen) == 17  # of 3 steps each
    for mine, theirs in zip(seen, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-9)


def test_the_epochs_are_those_of_an_independent_loop() -> None:
    asked = replace(trial(42, 8), schedules={"layers.2:out": Schedule("early", 4.0)})
    train = classification(torch.float64).parts["train"]
    assert isinstance(train.x, torch.Tensor)
    kinds = {port.site: port.kind for port in PORTS}
    losses = train_alone(
        factory(42).double(), asked, kinds, x=train.x, y=train.y, batch_size=16, family="adamw"
    )
    sizes = [16, 16, len(train) - 32]
    for epoch, ours in enumerate(alone(asked, "fused")):
        steps = zip(losses[3 * epoch : 3 * epoch + 3], sizes, strict=True)
        assert ours[0] == pytest.approx(sum(a * b for a, b in steps) / len(train), rel=1e-9)


def test_the_two_lanes_agree() -> None:
    asked = trial(5, 6)
    for fused, solo in zip(alone(asked, "fused"), alone(asked, "solo"), strict=True):
        assert fused == pytest.approx(solo, rel=1e-9)


def test_a_trial_that_diverges_leaves_alone_and_the_others_bitwise_untouched() -> None:
    """In float32 and the C kernels: what users run; the calm one leaves after the same epoch."""
    calm, wild = (driver(3, precision="float32", model=plain_factory) for _ in range(2))
    for one, lr in ((calm, 0.01), (wild, 1e30)):
        for slot in range(3):
            one.load(slot, trial(slot, lr=lr if slot == 1 else 0.01))
    states: list[Mapping[int, str]] = []
    for _ in range(4):
        left, right = ({end.slot: end for end in one.run_epoch()} for one in (calm, wild))
        states.append({slot: end.state for slot, end in right.items()})
        if 1 in calm.slots:
            calm.clear(1)  # a pack of another width may round in another way
        for slot in (0, 2):
            assert left[slot] == right[slot]
            a, b = calm.pack.state_dict(slot), wild.pack.state_dict(slot)
            assert all(torch.equal(a[key], b[key]) for key in a)
    assert states[0][1] == "diverged"
    assert states[1:] == [{0: "running", 2: "running"}] * 3
    assert wild.pack.free == {1}


def test_a_loss_that_is_not_finite_is_reported_as_it_is() -> None:
    one = driver(1)
    one.load(0, trial(0, lr=1e300))
    end = one.run_epoch()[0]
    assert not math.isfinite(end.train_loss)
    assert end.state == "diverged"
    assert one.run_epoch() == []


@pytest.mark.parametrize("objective", ["nll", "accuracy"])
def test_the_best_epoch_is_scored_at_the_end(objective: str) -> None:
    one = driver(2, objective=objective)
    for slot in range(2):
        one.load(slot, trial(slot, 12, lr=0.05))
    history: dict[int, list[tuple[float, dict[str, torch.Tensor]]]] = {0: [], 1: []}
    for _ in range(12):
        ends = one.run_epoch()
        for end in ends:
            state = one.pack.state_dict(end.slot)
            history[end.slot].append((end.validation.metrics[objective], state))
    final = one.finish([1, 0], ["validation", "test"])
    for end in ends:
        values = [value for value, _ in history[end.slot]]
        best = max(values) if objective == "accuracy" else min(values)
        assert end.best_epoch == values.index(best) + 1 < 12
        assert final[end.slot]["validation"].metrics[objective] == best
        kept, state = history[end.slot][end.best_epoch - 1][1], one.pack.state_dict(end.slot)
        assert all(torch.equal(kept[key], state[key]) for key in kept)
        assert set(final[end.slot]) == {"validation", "test"}


def test_the_best_epoch_follows_a_trial_that_moves() -> None:
    one = driver(3)
    for slot in range(3):
        one.load(slot, trial(slot, 20, lr=0.05))
    history = []
    for _ in range(12):
        end = one.run_epoch()[2]
        history.append(one.pack.state_dict(2))
    assert end.best_epoch < 12
    one.clear(0)  # the last row, that of slot 2, moves to the front
    one.finish([2], ["validation"])
    kept, state = history[end.best_epoch - 1], one.pack.state_dict(2)
    assert all(torch.equal(kept[key], state[key]) for key in kept)


def test_the_last_epoch_is_scored_when_that_is_asked_for() -> None:
    one = driver(1, keep_best=False)
    one.load(0, trial(0, 12, lr=0.05))
    ends = [one.run_epoch()[0] for _ in range(12)]
    assert ends[-1].best_epoch < 12
    assert one.finish([0], ["validation"])[0]["validation"] == ends[-1].validation


def test_patience_ends_a_trial_early() -> None:
    one = driver(1)
    one.load(0, replace(trial(0, 200, lr=0.05), patience=3))
    ends: list[EpochEnd] = []
    while not ends or ends[-1].state == "running":
        ends += one.run_epoch()
    assert ends[-1].state == "finished"
    assert ends[-1].epoch == ends[-1].best_epoch + 3 < 200


def test_equal_seeds_in_different_arms_train_on_the_same_batches() -> None:
    """With every rate at 0 the arms are the same trial, whether the sites are listed or not."""
    one = driver(3)
    arms = [trial(7, rate=0.0), replace(trial(7), rates={}), trial(8, rate=0.0)]
    for slot, asked in enumerate(arms):
        one.load(slot, asked)
    for _ in range(3):
        first, second, other = one.run_epoch()
        assert numbers(first) == numbers(second) != numbers(other)


def test_examples_are_those_of_the_part_with_their_predictions() -> None:
    one = driver(2)
    for slot in range(2):
        one.load(slot, trial(slot))
    one.run_epoch()
    scores = one.evaluate("test", [1], per_example=True)[1]
    examples, rows = scores.examples, one.data.parts["test"]
    assert examples is not None
    assert torch.equal(examples.rows, rows.rows)
    assert torch.equal(examples.target, rows.y)
    assert rows.group is not None
    assert examples.group is not None
    assert torch.equal(examples.group, rows.rows // 2)
    assert examples.loss.dtype == examples.prediction.dtype == torch.float32
    torch.testing.assert_close(examples.prediction.sum(-1), torch.ones(len(rows)))
    of_label = examples.prediction[torch.arange(len(rows)), rows.y]
    torch.testing.assert_close(examples.loss, -of_label.log(), rtol=1e-4, atol=1e-6)
    assert scores.loss == pytest.approx(float(examples.loss.mean()), rel=1e-6)
    right = (examples.prediction.argmax(-1) == rows.y).double().mean()
    assert scores.metrics["accuracy"] == pytest.approx(float(right))


def test_a_part_that_may_not_be_read_is_not_there() -> None:
    one = driver(1)
    one.load(0, trial(0))
    hidden = {part: rows for part, rows in one.data.parts.items() if part != "test"}
    one.data = replace(one.data, parts=hidden)
    with pytest.raises(KeyError):
        one.evaluate("test")


def test_evaluation_in_chunks_is_evaluation_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    one = driver(3)
    for slot in (2, 0):
        one.load(slot, trial(slot))
    one.run_epoch()
    whole = one.evaluate("validation")
    monkeypatch.setattr("dropt_trainer.fused.driver.EXAMPLES_AT_ONCE", 10)
    for slot, scores in one.evaluate("validation").items():
        assert scores.loss == pytest.approx(whole[slot].loss, rel=1e-12)


def regression(*, standardize: bool) -> Prepared:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N_ROWS, 5, generator=generator)
    y = torch.stack([x[:, 0], 3 * x[:, 1] + x[:, 2]], 1)
    y = y if not standardize else y * torch.tensor([100.0, 0.1]) + torch.tensor([1000.0, 5.0])
    dataset = Dataset(x, y, "regression", 2, standardize=standardize)
    split = hash_split(N_ROWS, seed=0, train=0.6, validation=0.2)
    return prepare(dataset, split, parts=("validation", "test"), dtype=torch.float64)


def test_losses_of_a_regression_are_in_units_of_the_target() -> None:
    def two_outputs(seed: int) -> nn.Module:
        return build("mlp", {"hidden": [8]}, input_shape=(5,), n_outputs=2, seed=seed)

    pack = Pack(two_outputs, [], slots=1, optimizer="adamw", loss="mse", precision="float64")
    data = regression(standardize=True)
    one = Driver(pack, data, batch_size=1000, objective="mse", direction="minimize")
    one.load(0, SlotTrial(0, 10, Params(lr=0.01)))
    before = one.evaluate("train", per_example=True)[0]
    end = one.run_epoch()[0]
    # One batch and no dropout: the training loss is the loss of the weights before the step.
    assert end.train_loss == pytest.approx(before.loss, rel=1e-9)
    examples = before.examples
    assert examples is not None
    assert float(examples.target[:, 0].mean()) == pytest.approx(1000, abs=50)
    errors = (examples.prediction - examples.target).square().mean()
    assert before.loss == pytest.approx(float(errors), rel=1e-4)
    assert before.metrics["mse"] == pytest.approx(before.loss)


@pytest.mark.parametrize(
    ("n_rows", "batch_size", "expected"),
    [
        (10, 4, [4, 8, 10]),
        (8, 4, [4, 8]),
        (9, 4, [4, 9]),
        (3, 4, [3]),
        (1, 4, [1]),
        (3, 1, [1, 2, 3]),
        (5, 4, [5]),
    ],
)
def test_every_row_is_in_one_batch_and_none_is_alone(
    n_rows: int, batch_size: int, expected: Sequence[int]
) -> None:
    assert batch_ends(n_rows, batch_size) == expected
