"""`dropt report` and `dropt show` over the real application: they tell the same numbers."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from tests.service.conftest import Done
from tests.service.report.pages import parse

from dropt.api.app import create_app
from dropt.cli import figures
from dropt.cli.problems import ExitCode
from dropt.cli.reading import show_job
from dropt.cli.report import write_report
from dropt.client import Client
from dropt.errors import NotFound
from dropt.settings import Settings
from dropt.spec.report import Report


@pytest.fixture(scope="module")
def client(raced: Done, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of an application over the database of a finished job."""
    url = raced.service.database.engine.url.render_as_string(hide_password=False)
    settings = Settings(
        state=tmp_path_factory.mktemp("report"), database_url=url, limit_free_disk_bytes=0
    )
    with TestClient(create_app(settings), base_url="http://localhost") as http:
        transport = http._transport  # the network of the test client
        with Client("http://localhost", transport=transport) as client:
            yield client


def test_page_and_json_and_best_and_show_tell_the_same_numbers(
    client: Client, raced: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "200")
    job = raced.job.id
    show_job(client, job, as_json=False)
    shown = capsys.readouterr().out
    write_report(client, job, tmp_path / "report.html", as_json=False)
    page = parse((tmp_path / "report.html").read_text(encoding="utf-8"))
    capsys.readouterr()
    write_report(client, job, None, as_json=True)
    report = Report.model_validate_json(capsys.readouterr().out)
    best, verdict = client.get_best(job), client.get_verdict(job)

    assert report.best == best
    assert report.verdict == verdict
    assert page.by_id["summary"].strip() == verdict.summary
    assert verdict.summary in shown
    for number in re.findall(r"[-+]\d+\.\d+", verdict.summary):
        assert number in page.by_id["effect"] + page.by_id["interval"]
    for site in best.recommended.sites:
        line = next(line for line in shown.splitlines() if line.strip().startswith(site.site))
        assert page.rates[site.site] == site.rate
        assert figures.rate(site.rate) in line
        assert figures.rate(site.rate) in page.text
    for arm in client.get_job(job).progress.arms:
        told = figures.score(verdict.metric, arm.best_value)
        assert f"{arm.arm}: {arm.complete} complete" in shown
        assert told in shown
        assert str(arm.best_value) in page.values
        assert told in page.by_id["search"]


def test_report_goes_to_a_file_or_to_the_output(
    client: Client, raced: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "report.html"
    assert write_report(client, raced.job.id, target, as_json=False) == ExitCode.OK
    assert f"Wrote {target}" in capsys.readouterr().out
    assert write_report(client, raced.job.id, None, as_json=False) == ExitCode.OK
    assert capsys.readouterr().out == target.read_text(encoding="utf-8")
    assert write_report(client, raced.job.id, tmp_path / "r.json", as_json=True) == ExitCode.OK
    assert json.loads((tmp_path / "r.json").read_text())["schema"] == "dropt-report/1"


def test_report_of_no_job_is_refused_and_writes_nothing(client: Client, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        write_report(client, "job_1", tmp_path / "report.html", as_json=False)
    assert not (tmp_path / "report.html").exists()
