"""The pipeline of a job in process, by the decision functions of the service itself.

Only the trainings are replaced: a value is drawn from a world of tables. What is trained, who
wins, what is taken out and what is said are `draw_up`, `select` and `take_look`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from tests.statistics.fcnet import (
    N_CELLS,
    N_PROBLEMS,
    N_SETTINGS,
    SITES,
    World,
    configurations,
    place_of,
)

from dropt.spec.job import Effort
from dropt.spec.results import VerdictWord
from dropt.tuning.evidence import crossed_statistics
from dropt.tuning.looks import plan_looks
from dropt.tuning.selection import Chosen, Rules, Selection, Trained, Wanted, select
from dropt.tuning.shortlist import (
    ARMS,
    PLANS,
    ArmName,
    Candidate,
    Configuration,
    Entry,
    Key,
    draw_up,
)
from dropt.tuning.simplification import SEEDS
from dropt.tuning.verdict import Look, take_look

MIN_EFFECT = 0.01  # one percent of the loss
N_EXAMPLES = 50  # all score alike: tables have no test examples, and then none may count as few

Train = Callable[[Wanted], float]


@dataclass(frozen=True)
class Outcome:
    """What a job says of one problem, and what is true of it."""

    word: VerdictWord
    seeds: int
    pair_gain: float  # of the configuration with dropout over that without, true
    arm_gain: float  # of the best with dropout over the best without, true
    on: frozenset[str]  # sites of the tested configuration
    sweep_says: bool  # a sweep of single seeds says that dropout helps
    sweep_gain: float  # true, of the two configurations that it holds against each other


def rules_for(effort: Effort) -> Rules:
    return Rules(
        plan=PLANS[effort], simplify_seeds=SEEDS[effort], groups=tuple((s,) for s in SITES),
        direction="minimize",
    )  # fmt: skip


def choose(
    entries: Mapping[ArmName, tuple[Entry, ...]], rules: Rules, train: Train
) -> Mapping[ArmName, Chosen]:
    """Train what `select` wants until it has chosen."""
    raced: dict[ArmName, dict[Key, list[float | None]]] = {arm: {} for arm in ARMS}
    simplified: dict[Key, list[float | None]] = {}
    while True:
        found: Selection = select(entries, Trained(raced, simplified), rules)
        if not found.wanted:
            return found.chosen
        for one in found.wanted:
            values = raced[one.arm] if one.purpose == "shortlist" else simplified
            values.setdefault(one.configuration.key, []).append(train(one))


def compare(
    differences: Callable[[int, int], np.ndarray], effort: Effort, min_effect: float
) -> Look:
    """Look after look at paired differences of seeds first to until - 1, positive is better."""
    plan = plan_looks(effort)
    seen = np.empty(0)
    for until in plan.looks:
        seen = np.concatenate([seen, differences(len(seen), until)])
        layout = np.repeat(seen[:, None], N_EXAMPLES, axis=1)
        look = take_look(crossed_statistics(layout), plan, min_effect=min_effect)
        if not look.decision.go_on:
            return look
    raise AssertionError("the last look goes on")


def run_problem(
    world: World,
    problem: int,
    generator: np.random.Generator,
    *,
    trials: int,
    effort: Effort = "default",
) -> Outcome:
    """A job on one problem, its search at random, `trials` of them per arm."""
    mean, spread = world.mean[problem], world.spread[problem]

    def draw(one: Configuration) -> float:
        place = place_of(one)
        return float(mean[place] + spread[place] * generator.standard_normal())

    candidates: dict[ArmName, list[Candidate]] = {
        "without": _searched("without", trials, draw, generator),
        "with": _searched("with", trials, draw, generator),
    }
    entries = draw_up(candidates, PLANS[effort], "minimize")
    chosen = choose(entries, rules_for(effort), lambda one: draw(one.configuration))
    without, with_ = (place_of(chosen[arm].configuration) for arm in ARMS)

    def differences(first: int, until: int) -> np.ndarray:
        noise = generator.standard_normal((2, until - first))
        return np.asarray(
            mean[without] + spread[without] * noise[0] - mean[with_] - spread[with_] * noise[1]
        )

    look = compare(differences, effort, MIN_EFFECT)
    says, gain = _sweep(mean, spread, 2 * trials, generator)
    return Outcome(
        word=look.decision.verdict,
        seeds=look.statistics.n_seeds,
        pair_gain=float(mean[without] - mean[with_]),
        arm_gain=float(mean[0].min() - mean[1:].min()),
        on=frozenset(chosen["with"].configuration.on),
        sweep_says=says,
        sweep_gain=gain,
    )


def run_world(
    world: World, repeats: int, seed: int, *, trials: int, effort: Effort = "default"
) -> list[Outcome]:
    """Each problem of a data set, again and again."""
    return [
        run_problem(
            world, problem, np.random.default_rng([seed, repeat, problem]), trials=trials,
            effort=effort,
        )
        for repeat in range(repeats)
        for problem in range(N_PROBLEMS)
    ]  # fmt: skip


def _searched(
    arm: Literal["without", "with"],
    trials: int,
    draw: Callable[[Configuration], float],
    generator: np.random.Generator,
) -> list[Candidate]:
    """Different configurations of an arm at random, each with one seed; all if so many."""
    cells = range(1) if arm == "without" else range(1, N_CELLS)
    places = [(cell, setting) for cell in cells for setting in range(N_SETTINGS)]
    n = min(trials, len(places))
    found = []
    for number in generator.choice(len(places), n, replace=False):
        cell, setting = places[number]
        one = configurations()[cell][setting]
        found.append(Candidate(f"{arm}/{number}", one, draw(one), completed=True))
    return found


def _sweep(
    mean: np.ndarray, spread: np.ndarray, trials: int, generator: np.random.Generator
) -> tuple[bool, float]:
    """One search over all rates, one seed each: its best with dropout against its best without."""
    picked = generator.choice(N_CELLS * N_SETTINGS, min(trials, mean.size), replace=False)
    flat_mean, flat_spread = mean.reshape(-1)[picked], spread.reshape(-1)[picked]
    values = flat_mean + flat_spread * generator.standard_normal(len(picked))
    off = picked < N_SETTINGS
    if not off.any():
        return False, 0.0
    best_off = int(np.where(off, values, np.inf).argmin())
    best_on = int(np.where(off, np.inf, values).argmin())
    says = bool(values[best_on] < values[best_off])
    return says, float(flat_mean[best_off] - flat_mean[best_on])
