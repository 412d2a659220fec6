"""Leases against a model: any order of claims, losses, renewals, reports and ends.

The model is a dictionary of what each trial must be; the database must agree after every step.
"""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.service.storage.rows import PROJECT, add_job, add_trials, measured, open_lease

from dropt.errors import LeaseLost
from dropt.spec.ids import JobId, LeaseId, TrialId, WorkerId
from dropt.spec.results import TrialState
from dropt.storage import leases, measurements, trials
from dropt.storage.engine import Database

N_TRIALS = 4
ENDS: tuple[TrialState, ...] = ("completed", "pruned", "failed")
SOME = settings(
    max_examples=10,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@dataclass
class Trial:
    """What a trial must be."""

    state: TrialState = "waiting"
    attempt: int = 0
    lease: int | None = None
    losses: int = 0
    failures: int = 0
    n_epochs: int = 0  # of this attempt

    def after_loss(self) -> tuple[int, int]:
        """Losses and failures if the trial were lost now."""
        was_alone = self.losses >= 2 or self.failures >= 2
        return self.losses + 1, self.failures + (was_alone and self.n_epochs == 0)


class Leases(RuleBasedStateMachine):
    """Workers, leases and trials of one job."""

    database: Database
    job: JobId

    @initialize()
    def submit(self) -> None:
        with self.database.writing() as session:
            self.job = add_job(session).id
            self.ids = [row.id for row in add_trials(session, self.job, N_TRIALS)]
        self.trials = [Trial() for _ in range(N_TRIALS)]
        self.leases: list[tuple[WorkerId, LeaseId]] = []
        self.is_open: list[bool] = []
        self.is_expired: list[bool] = []

    @rule(limit=st.integers(1, N_TRIALS), alone=st.booleans())
    def claim(self, limit: int, alone: bool) -> None:
        expected = [place for place in range(N_TRIALS) if self.is_claimable(place, alone=alone)]
        expected = expected[: 1 if alone else limit]
        with self.database.writing() as session:
            worker, lease = open_lease(session, self.job)
            taken = trials.claim(
                session, lease, worker, self.job, "search", project=PROJECT, limit=limit,
                alone=alone,
            )  # fmt: skip
        assert [row.number for row in taken] == expected
        self.leases.append((worker, lease))
        self.is_open.append(True)
        self.is_expired.append(False)
        for place in expected:
            one = self.trials[place]
            if one.state == "running":
                one.losses, one.failures = one.after_loss()
            one.state, one.attempt, one.n_epochs = "running", one.attempt + 1, 0
            one.lease = len(self.leases) - 1

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        place = self.some_lease(data)
        with self.database.writing() as session:
            leases.expire(session, self.leases[place][0], project=PROJECT)
        self.is_expired[place] |= self.is_open[place]

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        place = self.some_lease(data)
        worker, lease = self.leases[place]
        with self.database.writing() as session:
            renewed = leases.renew(session, [lease], worker, project=PROJECT)
        assert renewed == ({lease} if self.is_open[place] else set())
        self.is_expired[place] &= not self.is_open[place]

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        place = self.some_lease(data)
        lease = self.leases[place][1]
        with self.database.writing() as session:
            trials.requeue(session, self.ids, project=PROJECT, lease_id=lease)
            assert leases.close(session, lease, project=PROJECT) == self.is_open[place]
        self.is_open[place] = False
        for one in self.trials:
            if one.state == "running" and one.lease == place:
                one.state, one.lease = "waiting", None

    @rule(data=st.data())
    def report(self, data: st.DataObject) -> None:
        """Some trials, each under its attempt or an older one: all are stored, or none."""
        places = data.draw(st.sets(st.integers(0, N_TRIALS - 1), min_size=1))
        age = {place: data.draw(st.sampled_from([0, 0, 0, 1])) for place in places}
        named = {place: self.trials[place].attempt - age[place] for place in places}
        lost = {p for p in places if age[p] or self.trials[p].state != "running"}
        assert self._store(named) == {self.ids[place] for place in lost}
        for place in places if not lost else ():
            self.trials[place].n_epochs += 1
            self.trials[place].losses = 0

    @rule(data=st.data(), age=st.sampled_from([0, 0, 1]))
    def end(self, data: st.DataObject, age: int) -> None:
        place = data.draw(st.integers(0, N_TRIALS - 1))
        one = self.trials[place]
        state = data.draw(st.sampled_from(ENDS))
        with self.database.writing() as session:
            ended = trials.finish(
                session, self.ids[place], one.attempt - age, project=PROJECT, state=state
            )
        assert ended == (one.state == "running" and age == 0)
        if ended:
            one.state, one.lease = state, None

    @rule(place=st.integers(0, N_TRIALS - 1))
    def fail_with_a_retry_left(self, place: int) -> None:
        one = self.trials[place]
        if one.failures >= 2:
            return
        with self.database.writing() as session:
            back = trials.requeue(session, [self.ids[place]], project=PROJECT, failed=True)
        assert back == ([self.ids[place]] if one.state == "running" else [])
        if back:
            one.state, one.lease, one.failures = "waiting", None, one.failures + 1

    @rule()
    def end_what_was_lost_too_often(self) -> None:
        spent = [place for place in range(N_TRIALS) if self.is_spent(place)]
        with self.database.writing() as session:
            ended = trials.end_lost(session, self.job, project=PROJECT)
        assert sorted(row.number for row in ended) == spent
        for place in spent:
            one = self.trials[place]
            one.losses, one.failures = one.after_loss()
            one.state, one.lease = "failed", None

    @invariant()
    def the_database_agrees(self) -> None:
        with self.database.reading() as session:
            rows = trials.list_of(session, self.job, project=PROJECT)
            held = {
                place: [one.id for one in leases.held_trials(session, lease, project=PROJECT)]
                for place, (_, lease) in enumerate(self.leases)
            }
        found = [(row.state, row.attempt, row.lease_id, row.losses, row.failures) for row in rows]
        assert found == [
            (one.state, one.attempt, self.lease_id(one), one.losses, one.failures)
            for one in self.trials
        ]
        assert held == {place: self.held_by(place) for place in range(len(self.leases))}

    def is_claimable(self, place: int, *, alone: bool) -> bool:
        one = self.trials[place]
        if one.state not in ("waiting", "running") or self.is_spent(place):
            return False
        if one.state == "running" and not self.is_lost(one):
            return False
        losses, failures = (
            one.after_loss() if one.state == "running" else (one.losses, one.failures)
        )
        return (losses >= 2 or failures >= 2) == alone

    def is_lost(self, one: Trial) -> bool:
        return one.state == "running" and one.lease is not None and self.is_expired[one.lease]

    def is_spent(self, place: int) -> bool:
        one = self.trials[place]
        return self.is_lost(one) and one.after_loss()[1] >= 3

    def held_by(self, lease: int) -> list[TrialId]:
        places = range(N_TRIALS)
        return sorted(
            self.ids[place]
            for place in places
            if self.trials[place].state == "running" and self.trials[place].lease == lease
        )

    def lease_id(self, one: Trial) -> LeaseId | None:
        return None if one.lease is None else self.leases[one.lease][1]

    def some_lease(self, data: st.DataObject) -> int:
        return int(data.draw(st.integers(0, len(self.leases) - 1)))

    def _store(self, named: dict[int, int]) -> set[str]:
        """Report one more epoch of each; the trials that were refused."""
        points = [
            measured(self.ids[place], self.trials[place].n_epochs + 1, attempt=max(attempt, 1))
            for place, attempt in named.items()
        ]
        pairs = [(self.ids[place], attempt) for place, attempt in named.items()]
        try:
            with self.database.writing() as session:
                leases.hold(session, pairs, project=PROJECT)
                measurements.add_many(session, points, project=PROJECT)
        except LeaseLost as error:
            return set(error.lost)
        return set()


@pytest.mark.slow
def test_the_database_does_what_the_model_says(database: Database) -> None:
    machine: Any = type("OnDatabase", (Leases,), {"database": database})
    run_state_machine_as_test(machine, settings=SOME)
