import base64
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests import factories
from tests.service.api.probes import SMALL, assert_problem
from tests.service.report.pages import parse

from dropt.api.report import MOST_KEPT, Reports
from dropt.jobs.report import Stamp
from dropt.spec.report import Report


def test_page_is_html_that_may_load_nothing(shared: TestClient, path: str) -> None:
    answer = shared.get(f"{path}/report")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert policy.endswith("frame-ancestors 'none'")
    assert "script-src" not in policy


def test_numbers_are_those_of_the_other_answers(shared: TestClient, path: str) -> None:
    report = shared.get(f"{path}/report.json").json()
    assert report["schema"] == "dropt-report/1"
    for part in ("verdict", "best"):
        assert report[part] == shared.get(f"{path}/{part}").json()
    assert report["job"] == shared.get(path).json()
    page = parse(shared.get(f"{path}/report").text)
    assert page.by_id["summary"].strip() == report["verdict"]["summary"]
    assert str(report["verdict"]["effect"]) in page.values


@pytest.mark.parametrize("part", ["report", "report.json", "report?standalone=true"])
def test_pages_that_did_not_change_are_not_sent_twice(
    shared: TestClient, path: str, part: str
) -> None:
    first = shared.get(f"{path}/{part}")
    again = shared.get(f"{path}/{part}", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = shared.get(f"{path}/{part}", headers={"If-None-Match": 'W/"x"'})
    assert other.content == first.content


def test_links_of_the_page_lead_somewhere(shared: TestClient, path: str) -> None:
    links = parse(shared.get(f"{path}/report").text).urls
    local = {link for link in links if link.startswith("/") and not link.startswith("/dashboard")}
    assert f"{path}/report.json" in local
    assert "/" in local
    for link in sorted(local)[:12]:
        assert shared.get(link).status_code == 200, link


def test_file_has_neither_links_nor_scripts(shared: TestClient, path: str) -> None:
    page = parse(shared.get(f"{path}/report?standalone=true").text)
    assert page.urls == ["data:,"]
    assert page.script == ""


def test_running_job_runs_the_one_script_that_its_policy_names(
    http: TestClient, worker: factories.ToyWorker
) -> None:
    location = http.post("/v1/jobs", json=SMALL).headers["Location"]
    answer = http.get(f"{location}/report")
    script = parse(answer.text).script
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert (
        f"script-src 'sha256-{digest}'; connect-src 'self'"
        in (answer.headers["content-security-policy"])
    )
    assert http.get(f"{location}/report.json").json()["provisional"] is True


@pytest.mark.parametrize("part", ["report", "report.json"])
def test_job_that_is_not_there_is_a_problem(shared: TestClient, part: str) -> None:
    assert_problem(shared.get(f"/v1/jobs/job_1/{part}"), 404, "not-found")
    assert_problem(shared.get(f"/v1/jobs/job_1/{part}?colour=red"), 422, "validation")


def test_start_page_leads_to_the_reports(shared: TestClient, path: str) -> None:
    answer = shared.get("/")
    assert answer.status_code == 200
    page = parse(answer.text)
    assert f"{path}/report" in page.urls
    verdict = shared.get(f"{path}/verdict").json()
    assert str(verdict["effect"]) in page.values
    assert "curl -s http://localhost/v1/jobs" in page.text


def stamp(n: int) -> Stamp:
    return Stamp(f"job_{n}", 1, (), is_final=True)


@pytest.fixture
def made(shared: TestClient, path: str) -> Report:
    return Report.model_validate(shared.get(f"{path}/report.json").json())


def test_many_who_ask_at_once_let_it_be_built_once(made: Report) -> None:
    reports, builds, gate = Reports(), [], threading.Barrier(20)

    def build() -> Report:
        builds.append(1)
        return made

    def ask(_: int) -> Report:
        gate.wait()
        return reports.get(stamp(1), build)

    with ThreadPoolExecutor(20) as pool:
        assert all(found is made for found in pool.map(ask, range(20)))
    assert len(builds) == 1


def test_a_report_that_could_not_be_built_is_tried_again(made: Report) -> None:
    reports = Reports()

    def fail() -> Any:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        reports.get(stamp(1), fail)
    assert reports.get(stamp(1), lambda: made) is made


def test_old_reports_are_let_go(made: Report) -> None:
    reports, builds = Reports(), []

    def build() -> Report:
        builds.append(1)
        return made

    for n in [*range(MOST_KEPT + 1), MOST_KEPT, 0]:
        reports.get(stamp(n), build)
    assert len(builds) == MOST_KEPT + 2
