import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropt.spec.space import Dropout
from dropt.tuning.race import Race, run_race
from dropt.tuning.shortlist import RACE, Configuration, Entry, Round

ROUNDS = (Round(1, 3), Round(2, 2), Round(2, 1))


def entry(lr: float, *values: float) -> Entry:
    return Entry("with", Configuration({"lr": lr}, {"a": Dropout(rate=0.2)}), values, f"t{lr:g}")


def run(
    values: Sequence[Sequence[float | None]],
    rounds: Sequence[Round] = ROUNDS,
    *,
    searched: Sequence[float] = (),
) -> Race:
    entries = [entry(place, *searched[place : place + 1]) for place in range(len(values))]
    return run_race(list(zip(entries, values, strict=True)), rounds, "minimize")


def test_race_begins_with_the_first_round_for_all() -> None:
    assert run([[]] * 4).missing == ((0, 0), (1, 0), (2, 0), (3, 0))


def test_best_means_go_on_with_more_seeds() -> None:
    race = run([[0.4], [0.1], [0.3], [0.2]])
    assert set(race.missing) == {(1, 1), (1, 2), (3, 1), (3, 2), (2, 1), (2, 2)}
    assert race.winner is None


def test_last_round_decides_by_the_mean_of_all_values() -> None:
    early = [0.4]
    third = [0.3, 0.9, 0.9]
    race = run([early, [0.1, 0.5, 0.5, 0.9, 0.9], third, [0.2, 0.4, 0.4, 0.3, 0.3]])
    assert race.missing == ()
    assert race.winner is not None
    place, standing = race.winner
    assert (place, standing.n_values) == (3, 5)
    assert standing.mean == pytest.approx(0.32)


def test_value_of_the_search_counts() -> None:
    """Alone the fresh values would send the other on."""
    rounds = (Round(1, 1),)
    assert run([[0.2], [0.3]], rounds).winner[0] == 0  # type: ignore[index]  # it is over
    assert run([[0.2], [0.3]], rounds, searched=[0.9, 0.1]).winner[0] == 1  # type: ignore[index]


def test_value_of_a_later_round_changes_no_earlier_decision() -> None:
    """Place 0 was dropped after one seed, whatever is known of it since."""
    race = run([[0.9, 0.0, 0.0, 0.0, 0.0], *[[0.1, 0.5, 0.5, 0.5, 0.5]] * 3])
    assert race.winner is not None
    assert race.winner[0] != 0


def test_diverged_seed_loses_the_race() -> None:
    race = run([[None], [0.1]], (Round(1, 1),))
    assert race.winner is not None
    assert race.winner[0] == 1
    assert math.isinf(run([[None]], (Round(1, 1),)).winner[1].mean)  # type: ignore[index]


def test_race_with_one_left_is_over() -> None:
    assert run([[0.5]]).winner is not None
    assert run([[0.5], [0.4]], (Round(1, 1), Round(5, 1))).missing == ()


@pytest.mark.parametrize(("values", "rounds"), [([], ROUNDS), ([[0.1]], ())])
def test_nothing_to_race_is_refused(values: list[list[float]], rounds: tuple[Round, ...]) -> None:
    with pytest.raises(ValueError, match="nothing to race"):
        run(values, rounds)


@given(st.lists(st.floats(0, 1), min_size=6, max_size=6), st.randoms(use_true_random=False))
def test_race_of_six_takes_the_trainings_of_its_plan(means: list[float], random: object) -> None:
    """26 of `without`, 16 of `with`, however the values fall; each seed once, in order."""
    for arm, n in (("without", 26), ("with", 16)):
        values: list[list[float | None]] = [[] for _ in means]
        while (race := run(values, RACE.rounds[arm])).missing:  # type: ignore[index]
            for place, index in race.missing:
                assert index == len(values[place])
                values[place].append(means[place] + random.random())  # type: ignore[attr-defined]
        assert sum(map(len, values)) == n
        assert max(map(len, values)) == len(values[race.winner[0]])  # type: ignore[index]
