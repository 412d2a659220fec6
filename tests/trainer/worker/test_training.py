"""A pack from its lease to its last report: what is trained, said, dropped and refused."""

import json
import threading
import time
from collections.abc import Callable

import pytest
import safetensors.torch
import torch
from tests.trainer.worker.pace import Clock, Epochs
from tests.trainer.worker.scripted_service import ScriptedService, train_lease, trial

from dropt_trainer.data import builtin, placing
from dropt_trainer.data.prepare import prepare
from dropt_trainer.data.splits import Part
from dropt_trainer.fused.driver import Driver
from dropt_trainer.fused.pack import Pack
from dropt_trainer.worker import training
from dropt_trainer.worker.loop import Worker
from dropt_trainer.worker.sources import split_of

MakeWorker = Callable[[ScriptedService], Worker]
InThread = Callable[[Worker], threading.Thread]


def test_every_epoch_is_reported_once_and_every_trial_ends_once(make_worker: MakeWorker) -> None:
    service = ScriptedService()
    service.leases.append(train_lease([trial("a"), trial("b", epochs=6, rate=0)], rungs=(2,)))
    make_worker(service).run()

    assert service.epochs("a") == [1, 2, 3, 4]
    assert service.epochs("b") == [1, 2, 3, 4, 5, 6]
    assert {name: end["outcome"] for name, end in service.finished.items()} == {
        "a": "completed", "b": "completed"
    }  # fmt: skip
    assert [report["sequence"] for report in service.reports] == list(
        range(1, len(service.reports) + 1)
    )
    assert service.reports[-1]["done"]
    assert service.retired == ["wrk_1"]


def test_train_rows_are_scored_at_rungs_and_at_the_end(make_worker: MakeWorker) -> None:
    service = ScriptedService()
    service.leases.append(train_lease([trial("a", epochs=5)], rungs=(2,)))
    make_worker(service).run()
    scored = {
        m["epoch"]: m["train_eval_loss"] is not None
        for report in service.reports
        for m in report["measurements"]
    }
    assert scored == {1: False, 2: True, 3: False, 4: False, 5: True}


def test_values_are_those_of_the_best_epoch(make_worker: MakeWorker) -> None:
    service = ScriptedService()
    service.leases.append(train_lease([trial("a", epochs=30, params={"lr": 0.3})]))
    make_worker(service).run()
    losses = {
        m["epoch"]: m["metrics"]["nll"]
        for report in service.reports
        for m in report["measurements"]
    }
    end = service.finished["a"]
    assert end["best_epoch"] == min(losses, key=lambda epoch: losses[epoch])
    assert end["best_epoch"] < 30  # else the test shows nothing
    assert end["values"]["validation"]["nll"] == pytest.approx(losses[end["best_epoch"]])


def test_stopped_trial_ends_as_pruned_and_added_ones_take_free_slots(
    make_worker: MakeWorker,
) -> None:
    service = ScriptedService()
    service.leases.append(
        train_lease([trial("a", epochs=2000), trial("b", epochs=3)], slots=2, rungs=(1,))
    )
    service.answers += [{"stop": ["a"]}, {"add": [trial("c"), trial("d")]}]
    make_worker(service).run()
    ends = service.finished
    assert ends["a"]["outcome"] == "pruned"
    assert ends["a"]["epoch"] == service.epochs("a")[-1] < 2000
    assert {ends[name]["outcome"] for name in "bcd"} == {"completed"}
    assert all(report["free_slots"] <= 2 for report in service.reports)


def test_cancelled_trial_is_dropped_without_a_word(make_worker: MakeWorker) -> None:
    service = ScriptedService()
    service.leases.append(train_lease([trial("a", epochs=2000), trial("b", epochs=3)]))
    service.answers.append({"cancel": ["a"]})
    make_worker(service).run()
    assert set(service.finished) == {"b"}
    assert [m["trial"] for r in service.reports[1:] for m in r["measurements"]].count("a") == 0


def test_lost_trial_is_dropped_and_the_rest_is_sent_under_the_same_sequence(
    make_worker: MakeWorker,
) -> None:
    service = ScriptedService(lost={"a"})
    service.leases.append(train_lease([trial("a", epochs=2000), trial("b", epochs=3)]))
    make_worker(service).run()
    assert service.refused[0]["sequence"] == service.reports[0]["sequence"] == 1
    assert set(service.finished) == {"b"}
    assert service.epochs("a") == []
    assert service.epochs("b") == [1, 2, 3]


@pytest.mark.parametrize("fault", ["cut", "503", "429 quota", "after:cut", "after:503"])
def test_report_is_repeated_until_it_is_answered(make_worker: MakeWorker, fault: str) -> None:
    service = ScriptedService()
    service.leases.append(train_lease([trial("a"), trial("b", epochs=3)], slots=2, rungs=(1,)))
    service.answers += [{}, {"add": [trial("c")]}]
    service.faults += ["", fault, fault]
    make_worker(service).run()
    assert set(service.finished) == {"a", "b", "c"}
    assert {name: service.epochs(name) for name in "abc"} == {
        "a": [1, 2, 3, 4], "b": [1, 2, 3], "c": [1, 2, 3, 4]
    }  # fmt: skip


def test_nothing_is_trained_past_the_deadline(
    make_worker: MakeWorker, in_thread: InThread, clock: Clock, epochs: Epochs
) -> None:
    service = ScriptedService(expires_in=30.0, heartbeat_s=0.05)
    service.leases.append(train_lease([trial("a", epochs=20)]))
    in_thread(make_worker(service))
    epochs.allow(3)
    epochs.wait_for(4)
    with service.changed:
        service.offline = True
    epochs.allow(2)
    epochs.wait_for(6)  # the pack goes on while its lease lasts

    clock.now += 30.0
    epochs.allow(100)
    time.sleep(0.5)  # enough for many epochs
    assert epochs.n_begun == 6, "the one under way is the last"

    with service.changed:
        service.offline = False
    service.wait_for(lambda: "a" in service.finished)
    assert service.epochs("a") == list(range(1, 21))


def test_diverged_trial_leaves_its_pack_mates_alone(make_worker: MakeWorker) -> None:
    def run(*trials: dict[str, object]) -> ScriptedService:
        service = ScriptedService()
        service.leases.append(train_lease(trials))
        make_worker(service).run()
        return service

    wild = trial("wild", seed=3, params={"lr": 1e30})
    alone, together = run(trial("a")), run(wild, trial("a"))
    end = together.finished["wild"]
    assert (end["outcome"], end["reason"]) == ("failed", "diverged")
    assert together.finished["a"]["values"]["validation"]["nll"] == pytest.approx(
        alone.finished["a"]["values"]["validation"]["nll"], rel=1e-4
    )


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"dataset": {"name": "digits", "task": "classification", "sha256": "0" * 64}},
         "data", "DigestMismatch"),
        ({"model": {"name": "mlp", "args": {"hidden": [16]}, "fingerprint": "f" * 64}},
         "unsupported", "fingerprint"),
        ({"columns": {"nowhere:out": ["element"]}}, "unsupported", "nowhere:out"),
        ({"model": {"name": "mlp", "args": {"hidden": [-1]}}}, "error", "hidden"),
    ],
)  # fmt: skip
def test_lease_that_cannot_be_trained_is_reported_with_its_reason(
    make_worker: MakeWorker, changes: dict[str, object], reason: str, detail: str
) -> None:
    service = ScriptedService()
    service.leases.append(train_lease([trial("a"), trial("b")], **changes))
    make_worker(service).run()
    for end in service.finished.values():
        assert (end["outcome"], end["reason"], end["epoch"]) == ("failed", reason, 0)
        assert detail in end["detail"]
        assert "\n" not in end["detail"]
    assert len(service.finished) == 2
    assert service.reports[-1]["done"]


def test_trial_that_does_not_fit_fails_alone(make_worker: MakeWorker) -> None:
    service = ScriptedService()
    odd = trial("odd", sites={"elsewhere:out": {"kind": "element", "rate": 0.1}})
    service.leases.append(train_lease([odd, trial("a")]))
    make_worker(service).run()
    assert service.finished["odd"]["reason"] == "error"
    assert service.finished["a"]["outcome"] == "completed"


@pytest.mark.parametrize(
    ("error", "reason"),
    [(torch.OutOfMemoryError("no room"), "out_of_memory"), (RuntimeError("odd"), "error")],
)
def test_error_in_an_epoch_ends_its_trials_and_not_the_worker(
    make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    run_epoch = Driver.run_epoch

    def fail_once(self: Driver) -> object:
        monkeypatch.setattr(Driver, "run_epoch", run_epoch)
        raise error

    monkeypatch.setattr(Driver, "run_epoch", fail_once)
    service = ScriptedService()
    service.leases.append(train_lease([trial("a"), trial("b")]))
    service.answers.append({"add": [trial("c")]})
    make_worker(service).run()
    assert {service.finished[name]["reason"] for name in "ab"} == {reason}
    assert service.finished["c"]["outcome"] == "completed"


def test_trials_for_which_memory_has_no_slots_wait_for_those_of_their_pack(
    make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def crowded(*args: object, slots: int, **options: object) -> Pack:
        tried.append(slots)
        if slots > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return Pack(*args, slots=slots, **options)  # type: ignore[arg-type]  # handed through

    monkeypatch.setattr(training, "Pack", crowded)
    service = ScriptedService()
    service.leases.append(train_lease([trial(name) for name in "abcde"], slots=8))
    make_worker(service).run()
    assert tried[-3:] == [8, 4, 2]
    assert {name: end["outcome"] for name, end in service.finished.items()} == dict.fromkeys(
        "abcde", "completed"
    )


def test_test_rows_are_not_even_loaded_unless_they_may_be_scored(
    make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []

    def spy(*args: object, **options: object) -> object:
        prepared = prepare(*args, **options)  # type: ignore[arg-type]  # handed through
        seen.append(set(prepared.parts))
        return prepared

    monkeypatch.setattr(placing, "prepare", spy)
    service = ScriptedService()
    service.leases.append(train_lease([trial("a")], step="search"))
    service.leases.append(
        train_lease([trial("b")], id="lea_2", step="compare", per_example=True,
                    score=["train", "validation", "test"])
    )  # fmt: skip
    make_worker(service).run()
    assert seen == [{"train", "validation"}, {"train", "validation", "test"}]
    assert set(service.finished["a"]["values"]) == {"train", "validation"}
    assert set(service.finished["b"]["values"]) == {"train", "validation", "test"}


def test_scores_of_examples_are_uploaded_before_the_report_that_names_them(
    make_worker: MakeWorker,
) -> None:
    service = ScriptedService()
    service.leases.append(
        train_lease([trial("a")], step="compare", per_example=True,
                    score=["train", "validation", "test"])
    )  # fmt: skip
    make_worker(service).run()
    end = service.finished["a"]
    assert set(end["scores"]) == {"test"}
    file = service.artifacts[end["scores"]["test"]]
    tensors = safetensors.torch.load(file)
    header = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])
    dataset = builtin.load("digits")
    rows = (split_of(dataset, None) == Part.TEST).nonzero().flatten()

    assert json.loads(header["__metadata__"]["dropt"]) == {"split": "test"}
    assert set(tensors) == {"row", "loss", "prediction", "target"}
    assert torch.equal(tensors["row"], rows)
    assert torch.equal(tensors["target"], dataset.y[rows])
    assert tensors["prediction"].shape == (len(rows), 10)
    torch.testing.assert_close(tensors["prediction"].sum(1), torch.ones(len(rows)))
    picked = tensors["prediction"][torch.arange(len(rows)), dataset.y[rows]]
    torch.testing.assert_close(tensors["loss"], -picked.log(), rtol=1e-4, atol=1e-5)
    assert end["values"]["test"]["loss"] == pytest.approx(float(tensors["loss"].mean()), rel=1e-5)
