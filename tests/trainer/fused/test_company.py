"""A trial in any company: what it gives does not depend on its pack, its slot or its mates."""

import pytest
from tests.trainer.fused.cases import CASES, Case, trial

SAME = 1e-12  # relative, training losses in float64 and 20 steps: tier C
# A bias before batch norm has no gradient but noise, which Adam makes as large as any other step;
# batch norm takes it out again, in evaluation by a mean that lags behind.
SAME_IN_EVALUATION = 1e-9

Course = list[tuple[float, float]]  # losses of each epoch: in training, in validation


def alone(case: Case, seed: int, epochs: int) -> Course:
    one = case.driver(1, "solo")
    one.load(0, trial(seed, epochs, one.pack.ports))
    ends = [one.run_epoch()[0] for _ in range(epochs)]
    return [(end.train_loss, end.validation.loss) for end in ends]


def in_company(case: Case, plan: list[tuple[int, int, int]]) -> dict[int, Course]:
    """The course of each trial by seed, in a pack that is never empty before its end.

    Args:
        case: what is trained.
        plan: slot, seed and epochs of each trial; it begins when its slot is free.
    """
    pack = case.driver(1 + max(slot for slot, _, _ in plan), "fused")
    waiting, seen = list(plan), {seed: Course() for _, seed, _ in plan}
    while waiting or pack.slots:
        for one in list(waiting):
            slot, seed, epochs = one
            if slot not in pack.slots:
                pack.load(slot, trial(seed, epochs, pack.pack.ports))
                waiting.remove(one)
        for end in pack.run_epoch():
            course = (end.train_loss, end.validation.loss)
            seen[pack.slots[end.slot].trial.seed].append(course)
            if end.state == "finished":
                pack.clear(end.slot)
    return seen


# In the order of loading: slots out of order, a refill after the first epoch and after the second.
FOUR = [(2, 1, 4), (0, 2, 2), (3, 3, 1), (3, 4, 5), (0, 5, 3)]
PERMUTED = [(0, 4, 5), (1, 1, 4), (2, 5, 3), (5, 2, 2), (2, 3, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_trial_is_itself_in_any_slot_at_any_age_with_any_mates(name: str) -> None:
    case = CASES[name]
    companies = [in_company(case, plan) for plan in (FOUR, PERMUTED)]
    for _, seed, epochs in FOUR:
        training, validation = zip(*alone(case, seed, epochs), strict=True)
        for company in companies:
            trained, validated = zip(*company[seed], strict=True)
            assert trained == pytest.approx(training, rel=SAME, abs=0), seed
            assert validated == pytest.approx(validation, rel=SAME_IN_EVALUATION, abs=0), seed
