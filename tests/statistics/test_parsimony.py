"""What is taken out, and what cannot be told apart, where the truth is known."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from tests.statistics.fcnet import (
    N_CELLS,
    N_PROBLEMS,
    SITES,
    World,
    configurations,
    load_world,
    place_of,
)
from tests.statistics.telling import tell

from dropt.tuning.equivalence import indistinguishable
from dropt.tuning.race import run_race
from dropt.tuning.shortlist import RACE, Configuration, Entry, Key
from dropt.tuning.simplification import SEEDS, simplify

BOTH = (4, 5, 7, 8)  # cells with dropout at both sites
ALONE = (1, 2, 3, 6)  # cells with dropout at one


def simplified(
    world: World, problem: int, start: Configuration, generator: np.random.Generator
) -> Configuration:
    """What the elimination leaves of a configuration, its trainings drawn from the world."""
    values: dict[Key, list[float | None]] = {}
    while True:
        found = simplify(
            start, values, groups=[(site,) for site in SITES], n_seeds=SEEDS["default"],
            direction="minimize",
        )  # fmt: skip
        if not found.missing:
            return found.configuration
        for one, _ in found.missing:
            place = (problem, *place_of(one))
            drawn = world.mean[place] + world.spread[place] * generator.standard_normal()
            values.setdefault(one.key, []).append(float(drawn))


@pytest.mark.slow
def test_protein_needs_the_last_hidden_layer_alone() -> None:
    """The best architecture, started with both layers: 200 times."""
    world = load_world("protein_structure")
    problem = int(world.mean[:, 1:].reshape(N_PROBLEMS, -1).min(axis=1).argmin())
    cell, setting = min(
        ((c, q) for c in BOTH for q in range(48)), key=lambda place: world.mean[problem][place]
    )
    generator = np.random.default_rng(2)
    ends = Counter(
        tuple(simplified(world, problem, configurations()[cell][setting], generator).on)
        for _ in range(200)
    )
    tell(f"\nprotein, problem {problem}, from cell {divmod(cell, 3)}: {dict(ends)}")
    assert ends[("last",)] >= 0.98 * 200


@pytest.mark.slow
def test_redundant_site_is_taken_out() -> None:
    """The best setting with one site, and 0.3 at the other: 20 times in 144 architectures."""
    world = load_world("protein_structure")
    removed, n = 0, 0
    for problem in range(N_PROBLEMS):
        single, setting = min(
            ((c, q) for c in ALONE for q in range(48)),
            key=lambda place: world.mean[problem][place],
        )
        both = single + 3 if single < 3 else single + 1
        if world.mean[problem, single, setting] > world.mean[problem, both, setting]:
            continue  # the other site helps in truth
        start, alone = configurations()[both][setting], configurations()[single][setting]
        generator = np.random.default_rng([3, problem])
        ends = [simplified(world, problem, start, generator).key for _ in range(20)]
        removed, n = removed + ends.count(alone.key), n + len(ends)
    tell(f"\nredundant site taken out in {removed} of {n} ({removed / n:.2%})")
    assert removed / n >= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("k", "n_seeds"), [(3, 4), (5, 8), (8, 20)])
def test_equivalence_set_holds_the_true_best_when_all_are_equal(k: int, n_seeds: int) -> None:
    """Any of them is the true best then: the first is asked for. 20,000 draws, se 0.15 %."""
    drawn = np.random.default_rng([k, n_seeds]).standard_normal((20_000, k, n_seeds))
    held = sum(indistinguishable(one, "minimize")[0] for one in drawn.tolist())
    tell(f"\n{k} configurations, {n_seeds} seeds: holds the best in {held / 20_000:.2%}")
    assert held / 20_000 >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["without", "with"])
def test_equivalence_set_after_a_race_holds_the_true_best(arm: str) -> None:
    """Configurations that left early have fewer seeds; 5,000 races among six equal ones."""
    generator = np.random.default_rng(5)
    entries = [
        Entry("with", configurations()[N_CELLS - 1][place], (), str(place)) for place in range(6)
    ]
    held = sum(
        indistinguishable(raced(arm, entries, generator), "minimize")[0] for _ in range(5000)
    )
    tell(f"\nafter a race of {arm}: holds the best in {held / 5000:.2%}")
    assert held / 5000 >= 0.95


def raced(
    arm: str, entries: Sequence[Entry], generator: np.random.Generator
) -> list[list[float | None]]:
    """The fresh values of a race in which all are equal."""
    values: list[list[float | None]] = [[] for _ in entries]
    rounds = RACE.rounds["without" if arm == "without" else "with"]
    while True:
        race = run_race(list(zip(entries, values, strict=True)), rounds, "minimize")
        if race.winner is not None:
            return values
        for place, _ in race.missing:
            values[place].append(float(generator.standard_normal()))
