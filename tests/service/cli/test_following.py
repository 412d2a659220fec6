import io
from collections.abc import Callable

import httpx2
import pytest
from rich.console import Console
from tests.service.cli.answers import JOB, arm, best, configuration, job, site, verdict

from dropt.cli import following
from dropt.cli.following import follow, print_end, print_so_far
from dropt.cli.problems import ExitCode, ServiceEnded
from dropt.cli.progress import PlainLines
from dropt.client import Client
from dropt.errors import NotFound, ServiceUnreachable
from dropt.spec.results import JobRead

Respond = Callable[[httpx2.Request], httpx2.Response]
MISSING = {"type": "/problems/no-result-yet", "title": "", "status": 404, "detail": "none yet",
           "request_id": "r"}  # fmt: skip


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POLL_S", 0.0)


def client(*jobs: JobRead | Exception, answered: bool = True) -> Client:
    """A client of a service that shows these jobs, one after the other."""
    turns = iter(jobs)
    found = best(configuration("with", site("layers.1:out", 0.3)))

    def respond(request: httpx2.Request) -> httpx2.Response:
        last = request.url.path.rsplit("/", 1)[-1]
        if last in {"verdict", "best"}:
            answer = verdict() if last == "verdict" else found
            if not answered:
                return httpx2.Response(404, json=MISSING)
            return httpx2.Response(200, content=answer.model_dump_json(by_alias=True))
        turn = next(turns)
        if isinstance(turn, Exception):
            raise turn
        return httpx2.Response(200, content=turn.model_dump_json(by_alias=True))

    return Client("http://service", transport=httpx2.MockTransport(respond))


def console() -> tuple[Console, io.StringIO]:
    sink = io.StringIO()
    return Console(file=sink, width=100, highlight=False), sink


def no_check(patience_s: float) -> None:
    return None


def test_job_is_followed_to_its_end_over_a_cut() -> None:
    shown, sink = console()
    cut = httpx2.ReadError("cut")
    ended = job(fraction=1.0, phase=None, state="succeeded")
    found = follow(client(job(), cut, job(fraction=0.5), ended), JOB, PlainLines(shown), no_check)
    assert found.state == "succeeded"
    assert [line.split("%")[0].strip() for line in sink.getvalue().splitlines()] == [
        "0", "50", "100"
    ]  # fmt: skip


def test_service_that_does_not_come_back_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "TOLERANCE_S", 0.0)
    cuts = [httpx2.ConnectError("refused")] * 5
    with pytest.raises(ServiceUnreachable):
        follow(client(*cuts), JOB, PlainLines(console()[0]), no_check)


def test_check_that_knows_the_end_of_the_service_wins() -> None:
    def ended(patience_s: float) -> None:
        if patience_s:
            raise ServiceEnded("its last words")

    with pytest.raises(ServiceEnded, match="last words"):
        follow(client(httpx2.ConnectError("x")), JOB, PlainLines(console()[0]), ended)


def test_job_that_is_gone_is_not_asked_for_again() -> None:
    def respond(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(404, json={**MISSING, "type": "/problems/not-found"})

    gone = Client("http://service", transport=httpx2.MockTransport(respond))
    with pytest.raises(NotFound):
        follow(gone, JOB, PlainLines(console()[0]), no_check)


def test_every_verdict_is_a_success_and_a_failed_job_is_none() -> None:
    shown, sink = console()
    done = job(phase=None, state="succeeded")
    assert print_end(shown, client(), done, ()) == ExitCode.OK
    assert "Dropout helps" in sink.getvalue()

    shown, sink = console()
    failed = job(phase=None, state="failed", failure={"reason": "data", "message": "Flipped."})
    assert print_end(shown, client(), failed, ()) == ExitCode.JOB_FAILED
    assert "The job failed: Flipped." in sink.getvalue()


def test_cancelled_job_shows_what_there_is() -> None:
    shown, sink = console()
    cancelled = job(phase=None, state="cancelled")
    assert print_end(shown, client(answered=False), cancelled, ()) == ExitCode.OK
    assert sink.getvalue().strip() == "The job was cancelled."


def test_interrupted_run_says_the_best_so_far_and_how_to_go_on() -> None:
    shown, sink = console()
    running = job(fraction=0.42, arms=(arm("with", best_value=0.95), arm("without")))
    print_so_far(shown, client(running), JOB, "Go on with: dropt resume")
    assert sink.getvalue().splitlines()[1:] == [
        f"Stopped at 42 % of {JOB}.",
        "  best with: 95.0 % validation accuracy",
        "Go on with: dropt resume",
    ]


def test_interrupted_run_says_how_to_go_on_even_without_an_answer() -> None:
    shown, sink = console()
    print_so_far(shown, client(httpx2.ConnectError("gone")), JOB, "Go on with: dropt resume")
    assert sink.getvalue().strip() == "Go on with: dropt resume"
