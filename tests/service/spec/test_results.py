from tests.factories import PROJECT, dataset, registration
from tests.service.conftest import Done

from dropt.jobs import lists
from dropt.spec.catalogue import DatasetRead, ModelRead
from dropt.spec.results import FINAL_JOB_STATES, FINAL_TRIAL_STATES, Page, VerdictRead


def test_answers_read_back_as_themselves(done: Done) -> None:
    service, job = done.service, done.job.id
    answers = [
        lists.read_job(service, job, project=PROJECT),
        lists.verdict(service, job, project=PROJECT),
        lists.best(service, job, project=PROJECT, top=2),
        *lists.arms(service, job, project=PROJECT),
        *lists.trials(service, job, project=PROJECT, limit=99),
        *lists.events(service, job, project=PROJECT, limit=99),
    ]
    for answer in answers:
        assert type(answer).model_validate_json(answer.model_dump_json(by_alias=True)) == answer


def test_offers_become_what_users_read() -> None:
    model = ModelRead.of(registration().models[0], 2)
    assert (model.name, model.workers) == ("mlp", 2)
    data = DatasetRead.of(dataset("digits"), "offered", 1)
    assert (data.kind, data.split_rows["test"]) == ("offered", 240)


def test_page_is_the_last_one_without_a_token() -> None:
    assert Page[int](items=(1, 2)).next_page_token is None


def test_ends_are_ends() -> None:
    assert not {"queued", "running", "cancelling"} & set(FINAL_JOB_STATES)
    assert not {"waiting", "running"} & set(FINAL_TRIAL_STATES)
    assert VerdictRead.model_fields["split"].default == "test"
