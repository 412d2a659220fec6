from collections import Counter

import pytest

from dropt.spec.space import Dropout
from dropt.tuning.selection import (
    Chosen,
    Rules,
    Selection,
    Trained,
    cheapest,
    peers,
    select,
)
from dropt.tuning.shortlist import ARMS, FLAT, RACE, ArmName, Configuration, Entry, Key

Store = dict[Key, list[float | None]]


def configuration(lr: float, **rates: float) -> Configuration:
    return Configuration({"lr": lr}, {s: Dropout(rate=rate) for s, rate in rates.items()})


ENTRIES: dict[ArmName, tuple[Entry, ...]] = {
    "without": tuple(Entry("without", configuration(k + 1.0), (0.5,), f"o{k}") for k in range(3)),
    "with": tuple(
        Entry("with", configuration(k + 1.0, a=0.2, b=0.3), (0.5,), f"w{k}") for k in range(3)
    ),
}


def rules(*, simplify_seeds: int = 8) -> Rules:
    return Rules(RACE, simplify_seeds, (("a",), ("b",)), "minimize")


def value(one: Configuration, index: int) -> float:
    """lr 2 is best; b does nothing, a helps."""
    return abs(one.params["lr"] - 2.0) + (0.0 if "a" in one.sites else 0.3) + 0.001 * index


def carried_out(the_rules: Rules) -> tuple[list[Selection], Trained]:
    """Every answer on the way to the choice."""
    raced: dict[ArmName, Store] = {arm: {} for arm in ARMS}
    simplified: Store = {}
    answers = []
    while True:
        answers.append(select(ENTRIES, Trained(raced, simplified), the_rules))
        if not answers[-1].wanted:
            return answers, Trained(raced, simplified)
        for one in answers[-1].wanted:
            store = raced[one.arm] if one.purpose == "shortlist" else simplified
            values = store.setdefault(one.configuration.key, [])
            assert one.index == len(values)
            values.append(value(one.configuration, one.index))


def test_race_of_both_arms_comes_before_the_simplification() -> None:
    answers, _ = carried_out(rules())
    purposes = [{one.purpose for one in answer.wanted} for answer in answers[:-1]]
    assert purposes == [{"shortlist"}] * 3 + [{"simplify"}]
    first = Counter((one.arm, one.candidate) for one in answers[0].wanted)
    assert first == {
        **{("without", place): 2 for place in range(3)},
        **{("with", place): 1 for place in range(3)},
    }
    assert {one.origin for one in answers[3].wanted} == {"w1"}


def test_choice_is_the_winner_without_what_does_nothing() -> None:
    answers, trained = carried_out(rules())
    chosen = answers[-1].chosen
    assert chosen["without"].configuration == configuration(2.0)
    assert chosen["with"].configuration == configuration(2.0, a=0.2)
    assert (chosen["with"].place, chosen["with"].entry.trial) == (1, "w1")
    assert chosen["with"].value == pytest.approx(0.0035)  # the mean of its 8 seeds
    assert select(ENTRIES, trained, rules()) == answers[-1]


def test_without_simplification_the_winner_of_the_race_is_chosen() -> None:
    answers, _ = carried_out(rules(simplify_seeds=0))
    assert answers[-1].chosen["with"].configuration == configuration(2.0, a=0.2, b=0.3)
    assert answers[-1].chosen["with"].removals == ()


def test_time_that_is_up_asks_for_nothing_more() -> None:
    answers, trained = carried_out(rules(simplify_seeds=0))
    now = select(ENTRIES, trained, rules(), may_simplify=False)
    assert now.wanted == ()
    assert now.chosen["with"].configuration == answers[-1].chosen["with"].configuration


def test_race_goes_on_though_the_time_is_up() -> None:
    """It was reserved: without it there is no comparison."""
    assert select(ENTRIES, Trained({a: {} for a in ARMS}, {}), rules(), may_simplify=False).wanted


def test_arm_whose_fresh_seeds_all_diverged_has_no_value() -> None:
    raced: dict[ArmName, Store] = {
        arm: {entry.configuration.key: [None, None] for entry in ENTRIES[arm]} for arm in ARMS
    }
    found = select(ENTRIES, Trained(raced, {}), Rules(FLAT, 0, (), "minimize"))
    assert isinstance(found.chosen["with"], Chosen)
    assert found.chosen["with"].value is None


def test_peers_are_those_that_no_seed_tells_apart() -> None:
    values: Store = {
        entry.configuration.key: [mean + 0.01 * (r % 3) for r in range(6)]
        for entry, mean in zip(ENTRIES["with"], (0.5, 0.9, 0.501), strict=True)
    }
    values[ENTRIES["with"][2].configuration.key][0] = 0.49
    found = peers(ENTRIES["with"], values, "minimize")
    assert [(peer.place, peer.n_seeds) for peer in found] == [(0, 6), (2, 6)]
    assert found[0].mean == pytest.approx(0.51)


def test_cheapest_has_the_fewest_sites_then_the_lowest_rates() -> None:
    some = [
        configuration(1, a=0.1, b=0.1), configuration(2, a=0.5, b=0.0), configuration(3, b=0.3),
        configuration(4, a=0.3),
    ]  # fmt: skip
    assert cheapest(some) == 2
