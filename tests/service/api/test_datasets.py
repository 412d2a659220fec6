import io
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from tests import factories
from tests.service.api.probes import assert_problem

TABLE = "a,b,y\n" + "".join(f"{i},{2 * i},{'ny'[i % 2]}\n" for i in range(30))


def upload(http: TestClient, content: bytes | str = TABLE, **fields: str) -> Any:
    given = {"target": "y", **fields} if isinstance(content, str) else fields
    return http.post("/v1/datasets", files={"file": ("my data.csv", content)}, data=given)


def test_uploaded_table_is_listed_and_fetched(http: TestClient) -> None:
    response = upload(http)
    assert response.status_code == 201, response.text
    assert response.headers["Location"] == "/v1/datasets/my-data"
    dataset = http.get("/v1/datasets/my-data").json()
    assert dataset == response.json()
    assert (dataset["kind"], dataset["task"], dataset["rows"]) == (
        "uploaded",
        "classification",
        30,
    )
    assert (dataset["input_shape"], dataset["classes"]) == ([2], 2)
    assert dataset["split_rows"] == {"train": 18, "validation": 6, "test": 6}
    content = http.get("/v1/datasets/my-data/content")
    assert content.headers["ETag"] == f'"{dataset["sha256"]}"'
    with np.load(io.BytesIO(content.content), allow_pickle=False) as archive:
        assert archive["x"].tolist() == [[i, 2 * i] for i in range(30)]
    head = http.head("/v1/datasets/my-data/content")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == content.headers["Content-Length"]


def test_same_content_again_is_the_same_and_other_content_is_taken(http: TestClient) -> None:
    first = upload(http, name="d").json()
    assert upload(http, name="d").json() == first
    assert_problem(upload(http, TABLE + "9,9,y\n", name="d"), 409, "name-taken")
    other = upload(http, TABLE, name="e").json()
    assert other["sha256"] == first["sha256"]


def test_canonical_file_can_be_uploaded_again(http: TestClient) -> None:
    first = upload(http, name="d").json()
    content = http.get("/v1/datasets/d/content").content
    again = upload(http, content, name="e").json()
    assert {**again, "name": "d"} == first


def test_npz_is_uploaded(http: TestClient) -> None:
    file = io.BytesIO()
    np.savez(
        file, x=np.zeros((30, 3, 8, 8)) + np.arange(30)[:, None, None, None], y=np.arange(30) % 3
    )
    dataset = upload(http, file.getvalue(), name="images").json()
    assert (dataset["input_shape"], dataset["classes"]) == ([3, 8, 8], 3)


def test_task_of_a_table_can_be_said(http: TestClient) -> None:
    table = "a,y\n" + "".join(f"{i},{i % 5}\n" for i in range(40))
    assert upload(http, table, name="c").json()["task"] == "classification"
    assert upload(http, table, name="r", task="regression").json()["task"] == "regression"


def test_data_sets_are_filtered_and_paged(http: TestClient, worker: factories.ToyWorker) -> None:
    for name in ("b", "c"):
        upload(http, name=name)

    def names(query: str) -> list[str]:
        return [each["name"] for each in http.get(f"/v1/datasets?{query}").json()["items"]]

    offered = {offer.name: offer.task for offer in factories.registration().datasets}
    assert names("") == sorted(["b", "c", *offered])
    assert names("kind=uploaded") == ["b", "c"]
    assert names("kind=offered") == sorted(offered)
    regressions = sorted(name for name, task in offered.items() if task == "regression")
    assert names("task=regression") == regressions
    first = http.get("/v1/datasets?page_size=2")
    rest = names(f"page_size=500&page_token={first.json()['next_page_token']}")
    assert rest == sorted(["b", "c", *offered])[2:]
    assert first.links["next"]["url"].startswith("/v1/datasets?page_size=2&page_token=")


def test_content_that_workers_hold_is_not_here(
    http: TestClient, worker: factories.ToyWorker
) -> None:
    assert http.get("/v1/datasets/digits").json()["workers"] == 1
    assert_problem(http.get("/v1/datasets/digits/content"), 404, "not-found")


def test_job_on_an_upload_is_leased_with_its_content(
    http: TestClient, worker: factories.ToyWorker
) -> None:
    upload(http, name="mine")
    assert http.post("/v1/jobs", json={"model": "mlp", "dataset": "mine"}).status_code == 202
    ask = {"worker": worker.id, "slots": 1}
    lease = http.post("/v1/leases", json=ask, headers={"Prefer": "wait=10"}).json()
    content = http.get(lease["dataset"]["content"])
    assert content.headers["ETag"] == f'"{lease["dataset"]["sha256"]}"'


@pytest.mark.parametrize("name", ["nope", "..", "%2e%2e%2fdropt.db", "a%00b"])
def test_data_set_that_is_not_there_is_not_found(shared: TestClient, name: str) -> None:
    assert_problem(shared.get(f"/v1/datasets/{name}/content"), 404, "not-found")
