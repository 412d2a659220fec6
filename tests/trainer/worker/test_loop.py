"""The life of a worker: it registers, leases, inspects, drains, and takes no for an answer."""

import threading
from collections.abc import Callable

import pytest
from tests.trainer.worker.pace import PATIENCE_S, Epochs
from tests.trainer.worker.scripted_service import ScriptedService, train_lease, trial

from dropt.errors import NameTaken, Unauthorized
from dropt.spec.inspection import Inspection
from dropt.spec.protocol import Registration
from dropt_trainer.data import builtin
from dropt_trainer.models import MODELS
from dropt_trainer.worker import loop
from dropt_trainer.worker.loop import Interrupted, Worker

MakeWorker = Callable[[ScriptedService], Worker]
InThread = Callable[[Worker], threading.Thread]


def inspect_lease(**changes: object) -> dict[str, object]:
    return {**train_lease([]), "kind": "inspect", **changes}


def test_registration_offers_models_and_data_with_their_splits(make_worker: MakeWorker) -> None:
    service = ScriptedService()
    make_worker(service).run()
    said = Registration.model_validate(service.registrations[0])
    assert {offer.name for offer in said.models} == set(MODELS)
    assert {offer.name: offer.sha256 for offer in said.datasets} == {
        name: about.sha256 for name, about in builtin.DATASETS.items()
    }
    for offer in said.datasets:
        assert sum(offer.split_rows.values()) == offer.rows
    assert said.lease_kinds == ("inspect", "train")


def test_inspection_says_sites_and_how_to_train(make_worker: MakeWorker) -> None:
    service = ScriptedService()
    service.leases.append(inspect_lease())
    make_worker(service).run()
    (report,) = service.reports
    assert report["done"]
    found = Inspection.model_validate(report["inspection"]["result"])
    assert [site.site for site in found.sites] == ["layers.0:in", "layers.1:out"]
    assert [one.site for one in found.excluded] == ["layers.2:out"]
    assert found.probe is not None
    assert "1" in found.probe.trial_steps_per_second


def test_model_that_cannot_be_inspected_is_said_with_the_reason(make_worker: MakeWorker) -> None:
    service = ScriptedService()
    service.leases.append(inspect_lease(model={"name": "mlp", "args": {"hidden": "wide"}}))
    make_worker(service).run()
    failure = service.reports[0]["inspection"]["failure"]
    assert failure["reason"] == "error"
    assert "hidden" in failure["detail"]


def test_a_lost_lease_request_is_repeated_with_its_key_and_the_next_has_a_new_one(
    make_worker: MakeWorker,
) -> None:
    service = ScriptedService()
    service.lease_faults += ["cut", "503"]
    service.leases.append(train_lease([trial("a")]))
    make_worker(service).run()
    first, second, third, last = service.lease_keys
    assert first == second == third
    assert last != first


def test_refused_key_ends_the_worker(make_worker: MakeWorker) -> None:
    service = ScriptedService()
    service.lease_faults.append("401 unauthorized")
    with pytest.raises(Unauthorized):
        make_worker(service).run()


def test_key_that_is_refused_in_mid_lease_ends_the_worker(make_worker: MakeWorker) -> None:
    service = ScriptedService()
    service.leases.append(train_lease([trial("a", epochs=2000)]))
    service.faults.append("401 unauthorized")
    with pytest.raises(Unauthorized):
        make_worker(service).run()


def test_refused_registration_ends_the_worker(make_worker: MakeWorker) -> None:
    worker = make_worker(ScriptedService())

    def refuse(registration: Registration) -> None:
        raise NameTaken("digits is other data here")

    worker.client.register_worker = refuse  # type: ignore[assignment,method-assign]  # a refusal
    with pytest.raises(NameTaken):
        worker.run()


def test_report_that_is_not_understood_gives_the_lease_back_and_the_worker_goes_on(
    make_worker: MakeWorker,
) -> None:
    service = ScriptedService()
    service.leases.append(train_lease([trial("a", epochs=2000)]))
    service.leases.append(train_lease([trial("b")], id="lea_2"))
    service.faults.append("422 validation")
    make_worker(service).run()
    assert service.given_back == ["lea_1"]
    assert set(service.finished) == {"b"}


def test_lease_that_is_gone_is_left_without_a_word(make_worker: MakeWorker) -> None:
    service = ScriptedService()
    service.leases.append(train_lease([trial("a", epochs=2000)]))
    service.leases.append(train_lease([trial("b")], id="lea_2"))
    service.faults.append("404 not-found")
    make_worker(service).run()
    assert service.given_back == []
    assert set(service.finished) == {"b"}


def test_drain_finishes_the_epoch_reports_and_gives_back(
    make_worker: MakeWorker, in_thread: InThread, epochs: Epochs
) -> None:
    service = ScriptedService()
    service.leases.append(train_lease([trial("a", epochs=50)], rungs=(1,)))
    worker = make_worker(service)
    thread = in_thread(worker)
    epochs.allow(2)
    epochs.wait_for(3)
    service.wait_for(lambda: bool(service.reports))
    worker.drain()
    epochs.allow(1)
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert service.given_back == ["lea_1"]
    assert service.retired == ["wrk_1"]
    assert service.epochs("a") == [1, 2, 3]
    assert service.finished == {}


def test_drain_asked_for_by_the_service_ends_the_worker(make_worker: MakeWorker) -> None:
    service = ScriptedService()
    service.leases.append(train_lease([trial("a", epochs=10_000)], rungs=(1,)))
    service.answers.append({"drain": True})
    make_worker(service).run()
    assert service.given_back == ["lea_1"]


def test_drain_does_not_wait_for_a_long_poll(make_worker: MakeWorker) -> None:
    service = ScriptedService()
    worker = make_worker(service)

    def signalled() -> None:
        worker.drain()  # what the handler does, in the thread that waits

    service.idle = signalled
    worker.run()
    assert service.retired == ["wrk_1"]
    with pytest.raises(Interrupted), worker._idle():
        raise AssertionError


def test_drain_does_not_wait_for_a_service_that_is_away(
    make_worker: MakeWorker, in_thread: InThread, epochs: Epochs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LAST_WORDS_S", 0.5)
    service = ScriptedService()
    service.leases.append(train_lease([trial("a", epochs=50)], rungs=(1,)))
    worker = make_worker(service)
    thread = in_thread(worker)
    epochs.allow(2)
    epochs.wait_for(3)
    service.wait_for(lambda: bool(service.reports))
    with service.changed:
        service.offline = True
    worker.drain()
    epochs.allow(1)
    thread.join(PATIENCE_S)  # the service stays away
    assert not thread.is_alive()


def test_worker_that_the_service_forgot_drops_its_work_and_registers_anew(
    make_worker: MakeWorker,
) -> None:
    service = ScriptedService(heartbeat_s=0.05)
    service.leases.append(train_lease([trial("a", epochs=10_000)]))
    service.leases.append(train_lease([trial("b")], id="lea_2"))
    service.news["unknown"] = True
    worker = make_worker(service)
    register = worker.client.register_worker

    def note(registration: Registration) -> object:
        if service.registrations:
            service.news.clear()
        return register(registration)

    worker.client.register_worker = note  # type: ignore[assignment,method-assign]  # a wrapper
    worker.run()
    assert len(service.registrations) == 2
    assert set(service.finished) == {"b"}


def test_heartbeats_name_the_lease_and_bring_orders(make_worker: MakeWorker) -> None:
    service = ScriptedService(heartbeat_s=0.05)
    service.leases.append(train_lease([trial("a", epochs=10_000), trial("b", epochs=3)]))
    service.news["lease"] = {"stop": ["a"]}
    make_worker(service).run()
    assert service.finished["a"]["outcome"] == "pruned"
    assert ["lea_1"] in [beat["leases"] for beat in service.heartbeats]
