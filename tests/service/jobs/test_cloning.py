import pytest
from tests import factories
from tests.factories import PROJECT, ToyWorker, job_row, run_until_done, submit

from dropt.errors import DroptError, InvalidRequest, StaleRevision
from dropt.jobs import changing, cloning, deleting, lists, verbs
from dropt.spec.changes import JobChange
from dropt.spec.job import JobCreate
from dropt.spec.webhooks import WebhookRules
from dropt.storage import deletion, events
from dropt.storage.tables import metadata
from dropt.tuning import studies
from dropt.tuning.service import Service


def cloned(service: Service, job_id: str, **changes: object) -> JobCreate:
    warm = bool(changes.pop("warm_start", False))
    body, _ = cloning.body_of_clone(service, job_id, changes, project=PROJECT, warm_start=warm)
    return JobCreate.model_validate(body)


# ---- clone


def test_clone_without_changes_has_the_same_spec(service: Service) -> None:
    ToyWorker(service)
    job_id = submit(
        service, name="mine", labels={"team": "a"}, priority=3, search={"seed": 7},
        objective={"metric": "accuracy"}, training={"epochs": 5, "patience": 2},
    )  # fmt: skip
    origin = job_row(service, job_id)
    made, _ = verbs.submit(service, cloned(service, job_id), project=PROJECT, origin=origin)
    assert (made.spec, made.name) == (origin.spec, "mine")
    assert (made.labels, made.priority) == ({"team": "a"}, 3)
    assert made.cloned_from == job_id
    assert made.id != job_id


def test_changes_are_merged_and_null_takes_the_default(service: Service) -> None:
    ToyWorker(service)
    job_id = submit(service, search={"seed": 7, "sampler": "random"})
    body = cloned(service, job_id, search={"seed": None}, training={"epochs": 9})
    assert (body.search.seed, body.search.sampler, body.training.epochs) == (0, "random", 9)
    assert body.budget.trials == 6


def test_clone_on_data_of_another_task_chooses_anew(service: Service) -> None:
    ToyWorker(service)
    job_id = submit(service)
    body = cloned(service, job_id, dataset="houses")
    made, _ = verbs.submit(service, body, project=PROJECT)
    assert (made.spec.task, made.spec.objective.metric) == ("regression", "mse")


def test_warm_clone_tries_the_best_placements_first(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = submit(service)
    run_until_done(service, worker)
    best = lists.best(service, job_id, project=PROJECT, top=1)
    top = next(one for one in best.top if one.arm == "with")
    body = cloned(service, job_id, warm_start=True)
    first = body.search.start_from[0]
    assert {name: rate for name, rate in first.items() if rate} == {
        site.site: site.rate for site in top.sites if site.rate
    }
    verbs.submit(service, body, project=PROJECT)
    run_until_done(service, worker)
    with pytest.raises(InvalidRequest):
        cloned(service, job_id, warm_start=True, model="mlp")


@pytest.mark.parametrize(
    ("value", "change", "wanted"),
    [  # of the appendix of RFC 7396
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"a": "foo"}, {"a": {"b": {"c": None}}}, {"a": {"b": {}}}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ],
)
def test_merge_is_that_of_the_rfc(value: object, change: object, wanted: object) -> None:
    assert cloning.merged(value, change) == wanted


# ---- change


def test_change_of_what_may_change(service: Service) -> None:
    ToyWorker(service)
    job_id = submit(service, name="a", labels={"x": "1"})
    read = changing.change(
        service, job_id, JobChange(name="b", priority=5), project=PROJECT, revision=1
    )
    assert (read.name, read.priority, read.labels, read.revision) == ("b", 5, {"x": "1"}, 2)
    with pytest.raises(StaleRevision) as caught:
        changing.change(service, job_id, JobChange(name="c"), project=PROJECT, revision=1)
    assert caught.value.members == {"revision": 2}
    assert job_row(service, job_id).name == "b"


def test_higher_priority_is_served_first(service: Service) -> None:
    worker = ToyWorker(service)
    ids = [submit(service) for _ in range(3)]
    for job_id in ids:
        factories.run_until(service, worker, "search", job_id=job_id)
    changing.change(service, ids[1], JobChange(priority=9), project=PROJECT)
    lease = worker.lease()
    assert lease is not None
    assert lease.job == ids[1]


def test_listener_is_checked_kept_and_ended(service: Service) -> None:
    service.webhooks = WebhookRules(frozenset({"hooks.example"}))
    ToyWorker(service)
    job_id = submit(service)
    notify = {"url": "https://hooks.example/x", "secret": "s" * 20}
    for url in ("https://other.example/x", "https://u@hooks.example/", "http://[::1]/"):
        change = JobChange.model_validate({"notify": {**notify, "url": url}})
        with pytest.raises(InvalidRequest) as caught:
            changing.change(service, job_id, change, project=PROJECT)
        assert caught.value.errors[0].code == "address-not-allowed"
    change = JobChange.model_validate({"notify": notify})
    read = changing.change(service, job_id, change, project=PROJECT)
    assert read.notify is not None
    assert read.notify.url == notify["url"]
    assert notify["secret"] not in read.model_dump_json() + repr(job_row(service, job_id))
    origin = job_row(service, job_id)
    verbs.submit(service, cloned(service, job_id), project=PROJECT, origin=origin)
    copy = lists.list_jobs(service, project=PROJECT, limit=1)[0].id
    assert job_row(service, copy).notify_secret == notify["secret"]
    read = changing.change(service, job_id, JobChange(notify=None), project=PROJECT)
    assert read.notify is None
    assert job_row(service, job_id).notify_secret is None


# ---- delete


def test_deleted_job_leaves_no_row_and_no_study(service_on_either: Service) -> None:
    service = service_on_either
    worker = ToyWorker(service)
    job_id, other = submit(service), submit(service)
    run_until_done(service, worker)
    with factories.background(service) as background:
        while background._behind:
            service.wake.set()
        names = {study.study_name for study in background.storage.get_all_studies()}
        assert f"{job_id}/with" in names
        deleting.delete_job(service, job_id, project=PROJECT)
        while names_left := _discarded(service):
            assert names_left <= {f"{job_id}/{arm}" for arm in ("with", "without")}
        names = {study.study_name for study in background.storage.get_all_studies()}
    assert names >= {f"{other}/with", f"{other}/without"}
    assert names.isdisjoint({f"{job_id}/with", f"{job_id}/without"})
    with service.database.reading() as session:
        for table in metadata.sorted_tables:
            for row in session.execute(table.select()).mappings():
                if table.name != "idempotency":
                    assert job_id not in map(str, row.values()), table.name
        assert events.list_after(session, other, project=PROJECT, limit=1)


def _discarded(service: Service) -> set[str]:
    with service.database.reading() as session:
        return set(deletion.discarded_studies(session))


def test_worker_of_a_deleted_job_writes_nothing_more(service: Service) -> None:
    worker, lease = factories.search_lease(service)
    deleting.delete_job(service, lease.job, project=PROJECT, force=True)
    error = factories.refused(lambda: worker.send(lease, 1))
    assert isinstance(error, DroptError)
    assert error.status == 404
    assert not worker.work_once()


def test_deleting_a_study_twice_is_fine(service: Service) -> None:
    with factories.background(service) as background:
        studies.delete_study(background.storage, "job_0/with")


def test_unused_files_go_and_used_ones_stay(service_on_either: Service) -> None:
    service = service_on_either
    worker = ToyWorker(service)
    job_id = submit(service)
    run_until_done(service, worker)
    store = service.artifacts
    used = set(store.older_than(0))
    assert used
    left = worker.put(b"nobody refers to this")
    assert deleting.collect_garbage(service) == 0, "it is too young"
    assert deleting.collect_garbage(service, unused_s=0, file_s=0) == 1
    assert not store.has(left)
    assert set(store.older_than(0)) == used
    deleting.delete_job(service, job_id, project=PROJECT)
    assert deleting.collect_garbage(service, unused_s=0, file_s=0) == len(used)
    assert list(store.older_than(0)) == []
