import itertools

import numpy as np
import pytest

from dropt.errors import FieldError, InvalidRequest, NotReady, QuotaExceeded, ServiceUnreachable
from dropt_trainer.worker import retrying
from dropt_trainer.worker.retrying import GivenUp, pauses, until_answered


def test_pauses_grow_to_ten_seconds_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    drawn = list(itertools.islice(pauses(np.random.default_rng(1)), 200))
    assert min(drawn) >= retrying.SHORTEST_S
    assert max(drawn[:1]) <= 2 * retrying.SHORTEST_S
    assert 5.0 < max(drawn) <= retrying.LONGEST_S == 10.0
    assert len(set(drawn)) > 100


def test_temporary_failures_are_repeated_until_the_answer() -> None:
    outcomes = iter([ServiceUnreachable("x"), NotReady("x"), QuotaExceeded("x"), None])
    slept: list[float] = []

    def request() -> str:
        if (error := next(outcomes)) is not None:
            raise error
        return "answer"

    def sleep(seconds: float) -> bool:
        slept.append(seconds)
        return False

    answer = until_answered(request, sleep=sleep, jitter=np.random.default_rng(0))
    assert answer == "answer"
    assert len(slept) == 3


def test_refusal_is_not_repeated() -> None:
    def request() -> None:
        raise InvalidRequest("no")

    def sleep(seconds: float) -> bool:
        raise AssertionError

    with pytest.raises(InvalidRequest):
        until_answered(request, sleep=sleep, jitter=np.random.default_rng(0))


def test_swept_artifact_is_uploaded_again() -> None:
    error = InvalidRequest.of(FieldError("/finished/0/scores", "unknown-artifact", "gone"))
    outcomes = iter([error, None])

    def request() -> None:
        if (error := next(outcomes)) is not None:
            raise error

    until_answered(request, sleep=lambda _: False, jitter=np.random.default_rng(0))


def test_worker_that_is_to_end_gives_up() -> None:
    def request() -> None:
        raise ServiceUnreachable("x")

    with pytest.raises(GivenUp):
        until_answered(request, sleep=lambda _: True, jitter=np.random.default_rng(0))
