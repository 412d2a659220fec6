import pytest
import torch

from dropt_trainer.fused.slots import Slot, SlotTrial, base_rates, data_order, planned_rates
from dropt_trainer.optim import Params
from dropt_trainer.schedules import Schedule
from dropt_trainer.sites.instrument import SitePort

PORTS = (SitePort("a:out", "element"), SitePort("b:in", "element"), SitePort("b:in", "channel"))


def trial(**fields: object) -> SlotTrial:
    return SlotTrial(seed=1, epochs=10, params=Params(lr=0.1), **fields)  # type: ignore[arg-type]  # any field of a trial


def test_the_data_order_is_a_permutation_that_seed_and_epoch_decide() -> None:
    order = data_order(5, 3, 100)
    assert sorted(order.tolist()) == list(range(100))
    assert torch.equal(order, data_order(5, 3, 100))
    assert not torch.equal(order, data_order(5, 4, 100))
    assert not torch.equal(order, data_order(6, 3, 100))


GOLDEN = [3, 1, 7, 5, 6, 8, 0, 9, 2, 4]


def test_the_data_order_never_changes() -> None:
    """Equal seeds must see equal batches in every version: a golden value."""
    assert data_order(834112997, 1, 10).tolist() == GOLDEN


def test_a_site_that_is_not_named_has_rate_0() -> None:
    assert base_rates(trial(rates={"a:out": 0.25}), PORTS).tolist() == [0.25, 0.0, 0.0]


def test_a_kind_picks_the_column_of_its_site() -> None:
    both = trial(rates={"b:in": 0.5}, kinds={"b:in": "channel"})
    assert base_rates(both, PORTS).tolist() == [0.0, 0.0, 0.5]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rates": {"c:out": 0.1}}, r"c:out fits 0 ports"),
        ({"rates": {"b:in": 0.1}}, r"b:in fits 2 ports"),
        ({"rates": {"a:out": 0.1}, "kinds": {"a:out": "path"}}, r"a:out \(path\) fits 0"),
    ],
)
def test_a_site_that_the_pack_has_not_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        base_rates(trial(**fields), PORTS)


def test_rates_follow_their_schedules_within_an_epoch() -> None:
    scheduled = trial(rates={"a:out": 0.4}, schedules={"a:out": Schedule("early", 2.0)})
    first = planned_rates(scheduled, PORTS, epoch=1, n_steps=4)
    second = planned_rates(scheduled, PORTS, epoch=2, n_steps=4)
    torch.testing.assert_close(first[:, 0], torch.tensor([0.4, 0.35, 0.3, 0.25]))
    torch.testing.assert_close(second[:, 0], torch.tensor([0.2, 0.15, 0.1, 0.05]))
    assert not bool(planned_rates(scheduled, PORTS, epoch=3, n_steps=4).any())
    assert first.dtype == torch.float32


def test_the_best_epoch_is_the_first_of_equals() -> None:
    slot = Slot(trial(), epoch=0)
    for slot.epoch, value in enumerate([0.5, 0.7, 0.7, 0.6], start=1):
        slot.judge(value, "maximize")
    assert (slot.best_epoch, slot.best_value) == (2, 0.7)


def test_patience_ends_a_trial_that_does_not_get_better() -> None:
    slot = Slot(trial(patience=2), epoch=0)
    finished = []
    for slot.epoch, value in enumerate([3.0, 2.0, 2.5, 2.0], start=1):
        slot.judge(value, "minimize")
        finished.append(slot.is_finished)
    assert finished == [False, False, False, True]


def test_a_trial_ends_with_its_last_epoch() -> None:
    assert [Slot(trial(), epoch).is_finished for epoch in (9, 10)] == [False, True]
