"""Commands that ask and print, over the real application."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from tests.service.cli.answers import JOB, arm, job

from dropt.cli import reading
from dropt.cli.hosting import hosted, listen
from dropt.cli.problems import ExitCode
from dropt.client import Client
from dropt.errors import InvalidRequest, NotFound
from dropt.settings import Settings
from dropt.spec.results import EventRead, JobSummary


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a service without jobs and workers."""
    state = tmp_path_factory.mktemp("reading")
    with (
        listen("127.0.0.1", 0) as listener,
        hosted(Settings(state=state), listener, n_workers=0) as host,
        Client(host.address) as client,
    ):
        client.wait_until_ready(lambda: None)
        yield client


@pytest.mark.slow
def test_empty_list_says_how_to_begin(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert reading.list_jobs(client, as_json=False) == ExitCode.OK
    assert "dropt run --model mlp --dataset digits" in capsys.readouterr().out
    reading.list_jobs(client, as_json=True)
    assert json.loads(capsys.readouterr().out)["items"] == []


@pytest.mark.slow
def test_refusals_of_the_service_are_raised_as_they_are(client: Client) -> None:
    with pytest.raises(InvalidRequest):
        reading.submit_job(client, {"model": "m", "dataset": 3}, None, None, as_json=False)
    for read in (reading.show_job, reading.show_events):
        with pytest.raises(NotFound):
            read(client, JOB, as_json=False)


def test_table_of_jobs_has_a_row_for_each() -> None:
    found = JobSummary(
        id=JOB, revision=1, name="mlp on digits", labels={}, state="running", phase="search",
        model="mlp", dataset="digits", fraction=0.25, verdict=None,
        created_at=datetime(2026, 11, 23, tzinfo=UTC), finished_at=None,
    )  # fmt: skip
    table = reading.jobs_table([found])
    cells = [next(iter(column.cells)) for column in table.columns]
    assert [str(cell) for cell in cells] == [JOB, "mlp on digits", "running: search", "25 %", ""]


def test_summary_names_the_arms_and_what_the_job_waits_for() -> None:
    lines = list(reading.summary_lines(
        job(fraction=0.5, arms=(arm("with", complete=3, pruned=2, best_value=0.95),
                                arm("without")), reason="No worker.", warnings=("Mind this.",))
    ))  # fmt: skip
    assert lines[0] == f"{JOB} · mlp on digits · running: search · 50 %"
    assert lines[1].startswith("  without: 0 complete")
    assert "3 complete, 2 pruned, 0 failed of 64; best validation accuracy 95.0 %" in lines[2]
    assert lines[3:] == ["  No worker.", "  warning: Mind this."]


def test_event_is_one_line_without_control_characters() -> None:
    event = EventRead(
        sequence=1, type="trial.failed", at=datetime(2026, 11, 23, 22, 4, 18, tzinfo=UTC),
        job=JOB, trial="trl_1", attempt=2, data={"detail": "bad\x1b[31m\nnews", "none": None},
    )  # fmt: skip
    assert reading.event_line(event) == (
        "2026-11-23 22:04:18Z  trial.failed      trl_1  attempt 2  detail bad [31m news"
    )
