from dropt.spec.protocol import Finished, LeaseNews, Measurement, ReportAnswer, TrialAssignment
from dropt_trainer.worker.outbox import Message, Outbox


def measurement(trial: str, epoch: int = 1) -> Measurement:
    return Measurement(trial=trial, attempt=1, epoch=epoch)


def end(trial: str) -> Finished:
    return Finished(trial=trial, attempt=1, outcome="completed", epoch=4)


def assignment(trial: str) -> TrialAssignment:
    return TrialAssignment.model_validate(
        {"id": trial, "arm": "with", "number": 1, "attempt": 1, "seed": 1, "epochs": 4,
         "params": {"lr": 0.1}, "sites": {}}
    )  # fmt: skip


def outbox(*held: str, n_slots: int = 3, max_measurements: int = 5000) -> Outbox:
    return Outbox(held, n_slots=n_slots, max_measurements=max_measurements)


def taken(box: Outbox) -> Message:
    message = box.take_message(patience_s=0.0, spacing_s=0.0)
    assert message is not None
    return message


def test_end_frees_its_slot_in_the_report_that_tells_it() -> None:
    box = outbox("a", "b")
    assert taken(box).free_slots == 1
    box.put_end(end("a"))
    message = taken(box)
    assert [each.trial for each in message.finished] == ["a"]
    assert message.free_slots == 2


def test_added_trial_takes_its_slot_before_it_begins() -> None:
    box = outbox("a")
    taken(box)
    box.take_answer(ReportAnswer(sequence=1, expires_in=30, add=(assignment("b"),)))
    assert taken(box).free_slots == 1
    assert [trial.id for trial in box.take_orders().add] == ["b"]
    assert taken(box).free_slots == 1


def test_lost_trial_leaves_nothing_to_say() -> None:
    box = outbox("a", "b")
    box.put_measurements([measurement("a"), measurement("b")], urgent=False)
    box.put_end(end("a"))
    box.lose(["a", "b"])
    message = taken(box)
    assert message.measurements == ()
    assert message.finished == ()
    assert box.take_orders().drop == {"b"}


def test_what_is_put_after_the_loss_is_not_said() -> None:
    box = outbox("a")
    box.take_answer(LeaseNews(id="lea", expires_in=30, cancel=("a",)))
    box.put_measurements([measurement("a")], urgent=True)
    box.put_end(end("a"))
    message = taken(box)
    assert message.measurements == ()
    assert message.finished == ()


def test_stop_of_an_ended_trial_is_no_order() -> None:
    box = outbox("a", "b")
    box.put_end(end("a"))
    box.take_answer(LeaseNews(id="lea", expires_in=30, stop=("a", "b")))
    assert box.take_orders().stop == {"b"}
    assert not box.take_orders()


def test_end_waits_for_the_measurements_before_it() -> None:
    box = outbox("a", max_measurements=2)
    box.put_measurements([measurement("a", epoch) for epoch in (1, 2, 3)], urgent=False)
    box.put_end(end("a"))
    first, second = taken(box), taken(box)
    assert [m.epoch for m in first.measurements] == [1, 2]
    assert first.finished == ()
    assert first.free_slots == 2
    assert [m.epoch for m in second.measurements] == [3]
    assert [each.trial for each in second.finished] == ["a"]


def test_end_of_the_work_offers_no_slots() -> None:
    box = outbox("a")
    box.take_answer(ReportAnswer(sequence=1, expires_in=30, end=True))
    assert taken(box).free_slots == 0


def test_all_is_said_when_the_speaker_comes_back() -> None:
    box = outbox("a")
    box.put_end(end("a"))
    assert not box.wait_until_said(0.0)
    taken(box)
    assert not box.wait_until_said(0.0)
    box.close()
    assert box.wait_until_said(0.0)
    assert box.take_message(patience_s=0.0, spacing_s=0.0) is None
