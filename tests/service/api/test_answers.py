from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests import factories
from tests.service.api.probes import SMALL, assert_problem

from dropt.spec.results import ArmRead, BestRead, EventRead, Page, TrialRead, VerdictRead
from dropt.spec.space import Placement


def items(http: TestClient, url: str) -> Iterator[dict[str, Any]]:
    while url:
        response = http.get(url)
        assert response.status_code == 200, response.text
        yield from response.json()["items"]
        url = response.links.get("next", {}).get("url", "")


def test_verdict_of_a_finished_job_is_final(shared: TestClient, path: str) -> None:
    verdict = VerdictRead.model_validate(shared.get(f"{path}/verdict").json())
    assert not verdict.provisional
    assert verdict.effect is not None
    assert verdict.interval is not None
    assert verdict.interval[0] <= verdict.effect <= verdict.interval[1]


def test_best_shows_as_many_as_are_asked_for(shared: TestClient, path: str) -> None:
    best = BestRead.model_validate(shared.get(f"{path}/best?top=2").json())
    by_arm = {arm: [one for one in best.top if one.arm == arm] for arm in ("without", "with")}
    assert {arm: len(found) for arm, found in by_arm.items()} == {"without": 2, "with": 2}
    assert BestRead.model_validate(shared.get(f"{path}/best").json()).top == ()
    assert_problem(shared.get(f"{path}/best?top=101"), 422, "validation")


def test_best_of_all_jobs_names_this_one(shared: TestClient, path: str) -> None:
    (best,) = shared.get("/v1/best?model=mlp&dataset=digits").json()["items"]
    assert best["job"] == path.rpartition("/")[2]
    assert shared.get("/v1/best?model=cnn").json()["items"] == []


def test_arms_count_their_trials(shared: TestClient, path: str) -> None:
    page = Page[ArmRead].model_validate(shared.get(f"{path}/arms").json())
    assert [arm.arm for arm in page.items] == ["without", "with", "textbook"]
    for arm in page.items[:2]:
        assert arm.trials["completed"] + arm.trials["pruned"] == 4


def test_trials_come_by_number_and_by_value(shared: TestClient, path: str) -> None:
    everything = [TrialRead.model_validate(each) for each in items(shared, f"{path}/trials")]
    search = [trial for trial in everything if trial.phase == "search"]
    assert len(search) == 8
    numbers = [trial.number for trial in everything]
    assert numbers == sorted(numbers)
    url = f"{path}/trials?phase=search&state=completed&order_by=value&page_size=2"
    values = [trial["value"] for trial in items(shared, url)]
    completed = [trial.value for trial in search if trial.state == "completed"]
    assert values == sorted(value for value in completed if value is not None)
    down = [trial["value"] for trial in items(shared, url.replace("=value", "=value desc"))]
    assert down == values[::-1]
    assert {t["arm"] for t in items(shared, f"{path}/trials?arm=with")} == {"with"}


def test_pages_of_trials_hold_each_trial_once(shared: TestClient, path: str) -> None:
    at_once = [trial["id"] for trial in items(shared, f"{path}/trials?page_size=500")]
    in_pages = [trial["id"] for trial in items(shared, f"{path}/trials?page_size=3")]
    assert in_pages == at_once
    assert len(set(at_once)) == len(at_once)


def test_events_are_a_history_without_gaps(shared: TestClient, path: str) -> None:
    events = [
        EventRead.model_validate(event) for event in items(shared, f"{path}/events?page_size=7")
    ]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[-1].type == "job.finished"
    after = list(items(shared, f"{path}/events?after={len(events) - 2}"))
    assert [event["sequence"] for event in after] == [len(events) - 1, len(events)]
    only = list(items(shared, f"{path}/events?type=job.state&type=job.phase&page_size=2"))
    assert {event["type"] for event in only} == {"job.state", "job.phase"}


@pytest.mark.parametrize("part", ["", "/verdict", "/best", "/arms"])
def test_answers_that_did_not_change_are_not_sent_twice(
    shared: TestClient, path: str, part: str
) -> None:
    first = shared.get(path + part)
    tag = first.headers["ETag"]
    assert tag.startswith('W/"')
    for known in (tag, f'"x", {tag}', "*"):
        again = shared.get(path + part, headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
    assert shared.get(path + part, headers={"If-None-Match": '"x"'}).content == first.content


@pytest.mark.parametrize("part", ["verdict", "best"])
def test_job_without_a_trial_has_no_answer_yet(
    http: TestClient, worker: factories.ToyWorker, part: str
) -> None:
    location = http.post("/v1/jobs", json=SMALL).headers["Location"]
    assert_problem(http.get(f"{location}/{part}"), 404, "no-result-yet")


@pytest.mark.parametrize("token", ["", "AA", "%%%", "W10", "WzFd", "bnVsbA", "x" * 5000])
@pytest.mark.parametrize("part", ["trials", "events"])
def test_foreign_page_token_is_refused(
    shared: TestClient, path: str, part: str, token: str
) -> None:
    response = shared.get(f"{path}/{part}", params={"page_token": token})
    assert_problem(response, 400, "bad-page-token")


def test_configuration_is_a_placement_or_lines_of_pytorch(shared: TestClient, path: str) -> None:
    best = BestRead.model_validate(shared.get(f"{path}/best").json())
    answer = shared.get(f"{path}/best/config?arm=with")
    found = Placement.model_validate(answer.json())
    assert answer.json()["schema"] == "dropt-placement/1"
    with_dropout = next(one for one in (best.recommended, *best.alternatives) if one.arm == "with")
    assert {name: each.rate for name, each in found.sites.items()} == {
        one.site: one.rate for one in with_dropout.sites if one.rate > 0
    }
    tag = {"If-None-Match": answer.headers["ETag"]}
    assert shared.get(f"{path}/best/config?arm=with", headers=tag).status_code == 304
    text = shared.get(f"{path}/best/config?format=python&arm=with")
    assert text.headers["content-type"].startswith("text/x-python")
    assert all(name.rpartition(":")[0] in text.text for name in found.sites)
    assert "dropt" not in text.text.replace("dropout", "")


def test_configuration_that_does_not_exist_is_refused(shared: TestClient, path: str) -> None:
    assert_problem(shared.get(f"{path}/best/config?arm=wiht"), 422, "validation")
    assert_problem(shared.get(f"{path}/best/config?format=yaml"), 422, "validation")
    assert_problem(shared.get("/v1/jobs/job_1/best/config"), 404, "not-found")
