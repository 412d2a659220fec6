import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from math import log10, nan
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from tests.service.tuning.spaces import MLP, make_search, make_site, make_space

from dropt.spec.ids import TrialId
from dropt.spec.job import Direction
from dropt.spec.results import TrialState as OurState
from dropt.spec.space import Space
from dropt.tuning.first_trials import first_trials
from dropt.tuning.points import Point, decode, encode
from dropt.tuning.sampling import ArmMemory, Known, Proposal, _ArmSampler, is_number

SPACE = make_space()
N_FIRST = 4  # of SPACE in the arm with dropout


def make_memory(
    *,
    space: Space = SPACE,
    arm: str = "with",
    direction: Direction = "minimize",
    known: tuple[Known, ...] = (),
    target: int = 1000,
    **search: Any,
) -> ArmMemory:
    return ArmMemory(
        space, arm, make_search(**search), direction=direction, target=target, known=known
    )


def known_as(proposal: Proposal, state: OurState = "completed", **fields: Any) -> Known:
    """What the tables say of a proposal that became a trial."""
    return Known(
        trial=TrialId(f"trl_{proposal.number}"), number=proposal.number, state=state,
        params=proposal.point.params, rates=proposal.point.rates, rungs=fields.pop("rungs", {}),
        sites=proposal.point.sites,
        **fields,
    )  # fmt: skip


def search(memory: ArmMemory, loss: Callable[[Point], float], n: int) -> list[tuple[Known, Point]]:
    """Trials one after another, each completed with its loss."""
    done = []
    for number in range(n):
        proposal = memory.ask(number)
        trial = known_as(proposal, value=loss(proposal.point))
        memory.tell(trial)
        done.append((trial, proposal.point))
    return done


def bowl(point: Point) -> float:
    """Best at lr 0.01 and rate 0.4 of the hidden site alone."""
    hidden = point.rates.get("layers.1:out", 0.0)
    others = sum(point.rates.values()) - hidden
    return (log10(point.params.lr) + 2) ** 2 + 4 * (hidden - 0.4) ** 2 + others


def test_first_trials_come_first_and_in_order() -> None:
    memory = make_memory()
    points = [memory.ask(number).point for number in range(N_FIRST)]
    assert tuple(points) == first_trials(SPACE, make_search(), "with", target=1000)


def test_first_trials_go_on_where_the_tables_stop() -> None:
    first = first_trials(SPACE, make_search(), "with", target=1000)
    stored = known_as(Proposal(0, first[0]), "running")
    assert make_memory(known=(stored,)).ask(1).point == first[1]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("arm", ["with", "without"])
def test_proposals_lie_in_the_space(sampler: str, arm: str) -> None:
    memory = make_memory(arm=arm, sampler=sampler)
    for trial, point in search(memory, bowl, 25):
        codes = encode(SPACE, arm, trial.params, trial.sites)
        assert decode(SPACE, arm, codes) == point
        assert 3e-4 <= point.params.lr <= 3e-2
        assert bool(point.sites) == (arm == "with")


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_memory_rebuilt_from_the_tables_proposes_the_same(sampler: str) -> None:
    memory = make_memory(sampler=sampler)
    trials = [trial for trial, _ in search(memory, bowl, 20)]
    open_trials = [known_as(memory.ask(number), "running") for number in (20, 21)]
    rebuilt = make_memory(sampler=sampler, known=(*open_trials, *reversed(trials)))
    for number in range(22, 26):
        assert rebuilt.ask(number) == memory.ask(number)


def test_kinds_and_schedules_are_searched_and_learnt() -> None:
    """The kind and the curve of the good trials become the usual ones."""
    conv = make_site("a:out", "conv", kinds=("channel", "element"))
    choice = {"match": "*", "kinds": ["channel", "element"], "always_on": True}
    space = make_space(conv, sites=[choice], schedules=["constant", "early"])

    def loss(point: Point) -> float:
        (dropout,) = point.sites.values()
        return (dropout.kind == "channel") + (dropout.schedule.name == "constant")

    points = [point for _, point in search(make_memory(space=space), loss, 50)]
    assert {point.sites["a:out"].kind for point in points} == {"channel", "element"}
    assert {point.sites["a:out"].schedule.label for point in points} == {
        "constant", "early/6.75", "early/13.5",
    }  # fmt: skip
    assert sum(loss(point) == 0 for point in points[30:]) >= 12


def test_seed_and_arm_make_other_proposals() -> None:
    proposals = [make_memory(seed=seed).ask(N_FIRST).point for seed in (0, 0, 1)]
    assert proposals[0] == proposals[1] != proposals[2]
    nuisances = make_memory(arm="without").ask(N_FIRST).point.params
    assert nuisances != proposals[0].params


def test_a_number_asked_again_gets_the_same_proposal() -> None:
    memory = make_memory()
    first = memory.ask(N_FIRST)
    assert memory.ask(N_FIRST) is first


def test_a_number_that_the_tables_have_cannot_be_asked() -> None:
    memory = make_memory()
    memory.tell(known_as(memory.ask(0), "running"))
    with pytest.raises(ValueError, match="trial 0 of arm with was issued before"):
        memory.ask(0)


def test_the_tables_win_over_a_proposal_with_the_same_number() -> None:
    memory = make_memory()
    memory.ask(0)
    other = known_as(Proposal(0, memory.ask(1).point), value=1.0)
    memory.tell(other)
    states = [trial.state for trial in memory._study.trials]
    assert states == [TrialState.FAIL, TrialState.RUNNING, TrialState.COMPLETE]


@pytest.mark.parametrize(
    ("fields", "state", "value"),
    [
        ({"state": "completed", "value": 0.5}, TrialState.COMPLETE, 0.5),
        ({"state": "completed", "value": None}, TrialState.PRUNED, None),
        ({"state": "completed", "value": nan}, TrialState.PRUNED, None),
        ({"state": "pruned", "rungs": {3: 0.9, 9: 0.7}, "value": 0.1}, TrialState.PRUNED, 0.7),
        ({"state": "pruned"}, TrialState.PRUNED, None),
        ({"state": "failed"}, TrialState.FAIL, None),
        ({"state": "failed", "diverged": True, "rungs": {9: 0.7}}, TrialState.PRUNED, None),
        ({"state": "cancelled"}, TrialState.FAIL, None),
        ({"state": "waiting"}, TrialState.RUNNING, None),
        ({"state": "running"}, TrialState.RUNNING, None),
    ],
)
def test_each_end_is_told_in_the_words_of_the_sampler(
    fields: dict[str, Any], state: TrialState, value: float | None
) -> None:
    memory = make_memory()
    memory.tell(known_as(memory.ask(0), **fields))
    (trial,) = memory._study.trials
    assert trial.state == state
    reported = next(iter(trial.intermediate_values.values()), None)
    assert (trial.value if state == TrialState.COMPLETE else reported) == value


def test_an_end_told_twice_stays_as_it_was_told_first() -> None:
    memory = make_memory()
    trial = known_as(memory.ask(0), value=0.5)
    memory.tell(trial, replace(trial, value=0.1), replace(trial, state="failed"))
    (stored,) = memory._study.trials
    assert (stored.state, stored.value) == (TrialState.COMPLETE, 0.5)


def test_all_rates_zero_is_asked_again_and_not_counted() -> None:
    space = make_space(MLP[1])
    memory = make_memory(space=space)
    trials = search(memory, lambda point: 1.0, 60)
    assert all(point.rates["layers.1:out"] > 0 for _, point in trials)
    completed = [t for t in memory._study.trials if t.state == TrialState.COMPLETE]
    assert len(completed) == 60
    asked = [t for t in memory._study.trials if t.state == TrialState.FAIL]
    assert any(t.params["rate/layers.1:out"] < 0 for t in asked)


def test_a_sampler_that_insists_on_zero_gets_the_nearest_group_switched_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = make_memory()
    codes = {"rate/:in": -2, "rate/layers.1:out": -1, "rate/layers.3:out": -6}
    n_draws = []

    def draw() -> dict[str, float]:
        n_draws.append(1)
        return {**codes, "lr": 0.01, "weight_decay": 0.01}

    monkeypatch.setattr(memory, "_draw", draw)
    point = memory.ask(N_FIRST).point
    assert point.rates == {":in": 0.0, "layers.1:out": 0.05, "layers.3:out": 0.0}
    assert len(n_draws) == 10


def test_a_space_with_nothing_to_search_still_gives_trials() -> None:
    space = make_space(also={"lr": 0.01, "weight_decay": 0.0})
    memory = make_memory(space=space, arm="without")
    trials = search(memory, bowl, 15)
    assert {point.params.lr for _, point in trials} == {0.01}


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_tpe_finds_what_is_good_in_either_direction(direction: Direction) -> None:
    sign = 1 if direction == "minimize" else -1
    tpe = search(make_memory(direction=direction), lambda point: sign * bowl(point), 60)
    random = search(
        make_memory(direction=direction, sampler="random"), lambda point: sign * bowl(point), 60
    )
    late = [sum(bowl(point) for _, point in trials[40:]) / 20 for trials in (tpe, random)]
    assert late[0] < 0.5 * late[1]


def test_running_trials_keep_proposals_away() -> None:
    """Without the lie about running trials, 16 open ones make TPE as bad as random search."""
    memory = make_memory()
    trials = [trial for trial, _ in search(memory, bowl, 30)]
    alone = make_memory(known=tuple(trials))
    for number in range(30, 46):
        memory.ask(number)
    numbers = range(46, 62)
    assert [memory.ask(n) for n in numbers] != [alone.ask(n) for n in numbers]


def count_diverged(*, told: bool) -> int:
    """Trials from 30 to 89 with a learning rate above 0.01, where training diverges."""
    memory = make_memory(arm="without")
    n_diverged = 0
    for number in range(90):
        proposal = memory.ask(number)
        lr = proposal.point.params.lr
        if lr > 0.01:
            memory.tell(known_as(proposal, "failed", diverged=told))
            n_diverged += number >= 30
        else:
            memory.tell(known_as(proposal, value=1 - 20 * lr))
    return n_diverged


def test_a_sampler_that_learns_of_divergence_keeps_away_from_it() -> None:
    assert count_diverged(told=True) < 0.7 * count_diverged(told=False)


def test_integer_codes_are_sampled_as_the_grid_with_a_dead_zone() -> None:
    """The design's `FloatDistribution(low - z * step, high, step=step)` gives the same draws."""
    group = make_space(MLP[1]).groups[0]
    low = group.low - group.zero_codes * group.step
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=7))
    grid = FloatDistribution(round(low, 6), group.high, step=group.step)
    ints = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=7))
    for _ in range(40):
        x = study.ask({"x": grid})
        k = ints.ask({"x": optuna.distributions.IntDistribution(-6, 13)})
        assert x.params["x"] == pytest.approx(group.low + k.params["x"] * group.step)
        for own, trial in ((study, x), (ints, k)):
            own.tell(trial, (k.params["x"] - 4) ** 2)


def test_many_threads_get_many_proposals() -> None:
    memory = make_memory()
    found: list[Proposal] = []

    def ask(numbers: range) -> None:
        for number in numbers:
            proposal = memory.ask(number)
            found.append(proposal)
            memory.tell(known_as(proposal, value=bowl(proposal.point)))

    threads = [threading.Thread(target=ask, args=(range(k, 40, 4),)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(proposal.number for proposal in found) == list(range(40))
    completed = [t for t in memory._study.trials if t.state == TrialState.COMPLETE]
    assert len(completed) == 40


OPTUNA_LOGS = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="ours: %(message)s")
import optuna
from dropt.tuning.sampling import hand_over_logs
hand_over_logs()
optuna.create_study()
logging.getLogger("optuna.study").warning("heard")
"""


@pytest.mark.slow
def test_optuna_logs_through_our_handlers_and_writes_nothing_itself() -> None:
    """In a process of its own: pytest puts handlers on loggers that do not propagate."""
    done = subprocess.run(
        [sys.executable, "-c", OPTUNA_LOGS], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("ours: heard\n", "")


def test_a_number_is_there_and_finite() -> None:
    assert [is_number(value) for value in (None, nan, float("inf"), 0.0)] == [
        False, False, False, True,
    ]  # fmt: skip


def test_many_groups_are_searched_too() -> None:
    sites = [make_site(f"layers.{i}:out") for i in range(12)]
    space = make_space(*sites, groups="by_site")
    memory = make_memory(space=space)
    assert len(memory.ask(20).point.rates) == 12


def test_telling_tpe_its_space_changes_no_proposal(monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(point: Point) -> float:
        return abs(log10(point.params.lr) + 2) + sum(point.rates.values())

    told = search(make_memory(), loss, 25)
    monkeypatch.delattr(_ArmSampler, "infer_relative_search_space")
    assert search(make_memory(), loss, 25) == told
