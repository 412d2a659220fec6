import pytest
from tests.trainer.worker.pace import Clock

from dropt_trainer.worker.deadline import Deadline


def test_deadline_counts_from_the_sending_and_keeps_two_seconds(clock: Clock) -> None:
    deadline = Deadline(clock.now, 30.0)
    clock.now += 27.99
    assert not deadline.has_passed
    clock.now += 0.02
    assert deadline.has_passed


def test_short_lease_keeps_a_tenth(clock: Clock) -> None:
    deadline = Deadline(clock.now, 1.0)
    clock.now += 0.89
    assert not deadline.has_passed
    clock.now += 0.02
    assert deadline.has_passed


def test_answer_to_an_older_renewal_changes_nothing(clock: Clock) -> None:
    deadline = Deadline(clock.now, 30.0)
    deadline.renew(clock.now - 60.0, 30.0)
    assert not deadline.has_passed


def test_renewal_ends_the_wait(clock: Clock) -> None:
    deadline = Deadline(clock.now - 60.0, 30.0)
    assert not deadline.wait_for_renewal(0.0)
    deadline.renew(clock.now, 30.0)
    assert deadline.wait_for_renewal(0.0)


@pytest.mark.parametrize("expires_in", [0.5, 5.0, 30.0])
def test_fresh_lease_may_be_worked_on(clock: Clock, expires_in: float) -> None:
    assert not Deadline(clock.now, expires_in).has_passed
