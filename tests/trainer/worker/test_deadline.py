import time

import pytest

from dropt_trainer.worker.deadline import Deadline


def test_deadline_counts_from_the_sending_and_keeps_two_seconds() -> None:
    now = time.monotonic()
    assert Deadline(now - 28.1, 30.0).has_passed
    assert not Deadline(now - 27.0, 30.0).has_passed


def test_short_lease_keeps_a_tenth() -> None:
    now = time.monotonic()
    assert not Deadline(now - 0.5, 1.0).has_passed
    assert Deadline(now - 0.91, 1.0).has_passed


def test_answer_to_an_older_renewal_changes_nothing() -> None:
    now = time.monotonic()
    deadline = Deadline(now, 30.0)
    deadline.renew(now - 60.0, 30.0)
    assert not deadline.has_passed


def test_renewal_ends_the_wait() -> None:
    deadline = Deadline(time.monotonic() - 60.0, 30.0)
    assert not deadline.wait_for_renewal(0.0)
    deadline.renew(time.monotonic(), 30.0)
    assert deadline.wait_for_renewal(0.0)


@pytest.mark.parametrize("expires_in", [0.5, 5.0, 30.0])
def test_fresh_lease_may_be_worked_on(expires_in: float) -> None:
    assert not Deadline(time.monotonic(), expires_in).has_passed
