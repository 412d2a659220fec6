"""Jobs through the real service and its worker protocol, decided as the pipeline in process does.

A worker that looks values up in tables takes the place of training: same seeds, same numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from tests.factories import (
    ToyWorker,
    arm_rows,
    job_row,
    run_until_done,
    score_file,
    site,
    submit,
    trial_rows,
)
from tests.statistics.fcnet import DATASETS, N_PROBLEMS, N_SETTINGS, SITES, World, load_world
from tests.statistics.pipeline import MIN_EFFECT, choose, compare
from tests.statistics.telling import tell

from dropt.spec.inspection import Excluded, Inspection
from dropt.spec.protocol import InspectionReport, Lease, TrialAssignment
from dropt.spec.space import Dropout
from dropt.tuning.seeds import trial_seed
from dropt.tuning.service import Service
from dropt.tuning.shortlist import ARMS, Configuration
from dropt.tuning.winners import Winner, entries_of, rules_of

LR_LOW, LR_HIGH = 1e-4, 1e-1  # cut into as many steps as there are settings
OFFSET = 20.0  # logarithms of losses are below 0, scores are not


@dataclass(frozen=True)
class Table:
    """One problem of a world: the value of a configuration under a seed."""

    world: World
    problem: int

    def value(self, lr: float, sites: Mapping[str, Dropout], seed: int) -> float:
        share = np.log(lr / LR_LOW) / np.log(LR_HIGH / LR_LOW)
        setting = min(int(share * N_SETTINGS), N_SETTINGS - 1)
        first, last = (_code(sites[name].rate) if name in sites else 0 for name in SITES)
        place = (self.problem, 3 * first + last, setting)
        noise = np.random.default_rng([seed, *place]).standard_normal()
        return float(OFFSET + self.world.mean[place] + self.world.spread[place] * noise)

    def of(self, configuration: Configuration, purpose: str, index: int) -> float:
        seed = trial_seed(0, purpose, index)  # type: ignore[arg-type]  # one of the purposes
        return self.value(configuration.params["lr"], configuration.sites, seed)


def _code(rate: float) -> int:
    return 1 if rate < 0.45 else 2


class TabularWorker(ToyWorker):
    """Looks trainings up; every test example scores as the network does on average."""

    def inspect(self, lease: Lease, *, slots: int = 8) -> None:
        found = Inspection(
            fingerprint="7ab1e", parameters=1, output_layers=("out",),
            sites=tuple(site(name) for name in SITES),
            excluded=(Excluded(site="out:out", reason="output_layer"),),
        )  # fmt: skip
        self.send(lease, 1, inspection=InspectionReport(result=found), done=True)

    def upload(self, lease: Lease, trial: TrialAssignment) -> str:
        return self.put(score_file(np.full(self.n_test, self.loss(trial, 1)), task="regression"))


def run_job(service: Service, table: Table, trials: int) -> str:
    """A job of default effort on this problem, carried out; its id."""
    worker = TabularWorker(
        service, loss=lambda trial, epoch: table.value(trial.params.lr, trial.sites, trial.seed)
    )
    job_id = submit(
        service, dataset="houses", budget={"trials": trials}, training={"epochs": 1},
        evidence={"effort": "default"}, objective={"min_effect": MIN_EFFECT},
        compare={"arms": ["without", "with"]},
        search={
            "pruner": {"name": "none"},
            "also": {"lr": {"low": LR_LOW, "high": LR_HIGH, "log": True}, "weight_decay": 0.0},
        },
    )  # fmt: skip
    run_until_done(service, worker)
    return job_id


def check_decisions(service: Service, table: Table, job_id: str) -> str:
    """The winners, the looks and the verdict of the job are those of the pipeline in process."""
    job = job_row(service, job_id)
    assert job.verdict is not None
    chosen = choose(
        entries_of(job, trial_rows(service, job_id)), rules_of(job),
        lambda one: table.of(one.configuration, one.purpose, one.index),
    )  # fmt: skip
    stored = arm_rows(service, job_id)
    for arm in ARMS:
        winner = Winner.model_validate(stored[arm].winner)
        assert winner.configuration.key == chosen[arm].configuration.key
        assert winner.value == pytest.approx(chosen[arm].value, abs=1e-12)

    def differences(first: int, until: int) -> np.ndarray:
        values = [
            [table.of(chosen[arm].configuration, "compare", r) for r in range(first, until)]
            for arm in ARMS
        ]
        without, with_ = np.asarray(values, np.float32).astype(np.float64)
        return np.asarray(without - with_)

    look = compare(differences, "default", MIN_EFFECT)
    verdict = job.verdict
    assert verdict.verdict == look.decision.verdict
    assert (verdict.look, verdict.seeds) == (look.number, look.statistics.n_seeds)
    assert verdict.effect == pytest.approx(look.statistics.effect, abs=1e-9)
    assert look.interval is not None
    assert verdict.interval == pytest.approx((look.interval.low, look.interval.high), rel=1e-6)
    return verdict.verdict


@pytest.mark.slow
def test_job_through_the_service_decides_as_in_process(service: Service) -> None:
    table = Table(load_world("protein_structure"), 77)
    check_decisions(service, table, run_job(service, table, trials=12))


@pytest.mark.statistics
@pytest.mark.parametrize("dataset", DATASETS)
def test_five_jobs_of_each_data_set_decide_as_in_process(service: Service, dataset: str) -> None:
    problems = np.random.default_rng(9).choice(N_PROBLEMS, 5, replace=False)
    for problem in problems.tolist():
        table = Table(load_world(dataset), problem)
        word = check_decisions(service, table, run_job(service, table, trials=30))
        tell(f"{dataset} {problem}: {word} through the service, and in process")
