"""Sequence models in packs: tensors by name with a mask, and the next token, end to end."""

import pytest
import torch
from torch import Tensor

from dropt.spec.job import ALSO_REPORTED, LOSS_OF, METRICS_OF
from dropt_trainer.data.dataset import Dataset, take
from dropt_trainer.data.prepare import Prepared, prepare
from dropt_trainer.data.splits import hash_split
from dropt_trainer.fused.driver import Driver
from dropt_trainer.fused.pack import Pack
from dropt_trainer.fused.slots import SlotTrial
from dropt_trainer.fused.step import Lane
from dropt_trainer.inspect import inspect_model
from dropt_trainer.losses import LOSSES
from dropt_trainer.models import build
from dropt_trainer.optim import Params
from dropt_trainer.sites.ports import SitePort

N, T, D, C = 30, 6, 3, 5
SMALL = {
    "lstm": {"hidden": 6, "embedding": 4}, "gru": {"hidden": 6, "embedding": 4},
    "transformer": {"width": 8, "feedforward": 8, "depth": 1},
}  # fmt: skip


def vectors_with_mask() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, T + 1, (N, 1), generator=generator)
    x = torch.randn(N, T, D, generator=generator)
    labels = (x[:, 0, 0] > 0).long() + (x[:, 0, 1] > 1).long()
    return Dataset(
        {"x": x, "mask": torch.arange(T) < lengths}, labels, "classification", 3,
        standardize=True, is_sequence=True,
    )  # fmt: skip


def tokens() -> Dataset:
    ids = torch.randint(0, C, (N, T + 1), generator=torch.Generator().manual_seed(1))
    return Dataset(ids[:, :-1], ids[:, 1:], "next_token", C, n_tokens=C)


def prepared(dataset: Dataset) -> Prepared:
    split = hash_split(N, seed=0, train=0.6, validation=0.2)
    return prepare(dataset, split, parts=("validation", "test"), dtype=torch.float64)


def driver(name: str, data: Prepared, *, slots: int, lane: Lane) -> Driver:
    """A pack with a rate at every site of the model."""

    def factory(seed: int) -> torch.nn.Module:
        return build(
            name, SMALL[name], input_shape=data.input_shape, n_outputs=data.n_outputs, seed=seed,
            task=data.task, n_tokens=data.n_tokens, input_names=data.input_names,
        )  # fmt: skip

    rows, loss = data.parts["train"], LOSS_OF[data.task]
    assert isinstance(rows.x, Tensor | dict)
    few = torch.arange(4)
    found = inspect_model(factory(0).double(), take(rows.x, few), rows.y[few], LOSSES[loss])
    ports = [
        SitePort(site.site, site.kinds[0], calls=site.calls, time_dim=site.time_dim)
        for site in found.sites
    ]
    pack = Pack(
        factory, ports, slots=slots, optimizer="adamw", loss=loss, precision="float64", lane=lane
    )
    metrics = (*METRICS_OF[data.task], *ALSO_REPORTED.get(data.task, ()))
    one = Driver(pack, data, batch_size=8, objective="nll", direction="minimize", metrics=metrics)
    for slot in range(slots):
        rates = {port.site: 0.1 + 0.2 * slot for port in ports}
        one.load(slot, SlotTrial(slot, 3, Params(lr=0.01), rates=rates))
    return one


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        ("lstm", tokens()),
        ("gru", vectors_with_mask()),
        ("transformer", tokens()),
        ("transformer", vectors_with_mask()),
    ],
    ids=["lstm-tokens", "gru-vectors", "transformer-tokens", "transformer-vectors"],
)
def test_trials_of_a_pack_are_the_trials_alone(name: str, dataset: Dataset) -> None:
    data = prepared(dataset)
    together = driver(name, data, slots=3, lane="fused")
    alone = driver(name, data, slots=3, lane="solo")
    for _ in range(2):
        for one, other in zip(together.run_epoch(), alone.run_epoch(), strict=True):
            assert one.train_loss == pytest.approx(other.train_loss, rel=1e-9)
            assert one.validation.loss == pytest.approx(other.validation.loss, rel=1e-9)


def test_a_masked_sequence_learns_what_its_first_step_says() -> None:
    data = prepared(vectors_with_mask())
    one = driver("gru", data, slots=1, lane="solo")
    first, *_, last = [one.run_epoch()[0] for _ in range(3)]
    assert last.train_loss < first.train_loss


@pytest.mark.slow
def test_next_tokens_are_scored_by_example_and_by_step() -> None:
    data = prepared(tokens())
    one = driver("transformer", data, slots=2, lane="solo")
    one.run_epoch()
    scores = one.evaluate("test", per_example=True)
    rows = data.parts["test"]
    assert isinstance(rows.x, Tensor)
    output = one.pack.predict(one.pack.window(), rows.x)
    for slot in (0, 1):
        examples, logits = scores[slot].examples, output[slot]
        assert examples is not None
        assert examples.loss.shape == (len(rows),)
        assert torch.equal(examples.prediction.long(), logits.argmax(-1))
        assert torch.equal(examples.target, rows.y)
        each = -logits.log_softmax(-1).gather(-1, rows.y[..., None])[..., 0]
        torch.testing.assert_close(examples.loss, each.mean(1).float())
        assert scores[slot].loss == pytest.approx(float(each.mean()), rel=1e-12)
        assert scores[slot].metrics["nll"] == pytest.approx(float(each.mean()), rel=1e-12)
        assert scores[slot].metrics["perplexity"] == pytest.approx(float(each.mean().exp()))
        share = (logits.argmax(-1) == rows.y).double().mean()
        assert scores[slot].metrics["accuracy"] == pytest.approx(float(share))


@pytest.mark.slow
def test_the_chunks_of_an_evaluation_fit_the_logits_of_each_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = driver("gru", prepared(tokens()), slots=2, lane="solo")
    whole = one.evaluate("train")
    sizes: list[int] = []
    predict = one.pack.predict

    def counted(window: object, x: Tensor) -> Tensor:
        sizes.append(len(x))
        return predict(window, x)  # type: ignore[arg-type]  # passed on as it came

    monkeypatch.setattr(one.pack, "predict", counted)
    monkeypatch.setattr("dropt_trainer.fused.driver.LOGITS_AT_ONCE", 5 * 2 * T * C)
    again = one.evaluate("train")
    assert set(sizes[:-1]) == {5}
    assert again[1].loss == pytest.approx(whole[1].loss, rel=1e-12)
