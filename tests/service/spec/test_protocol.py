from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from tests.factories import inspection, registration
from tests.service.conftest import Done

from dropt.spec.inspection import Inspection
from dropt.spec.protocol import (
    Checkpoint,
    Finished,
    Heartbeat,
    Lease,
    LeaseRequest,
    Measurement,
    Registration,
    Report,
    ReportAnswer,
)

DIGEST = "a" * 64
REPORT = {
    "worker": "wrk_01KARB0000000000000000000C", "sequence": 7, "free_slots": 1,
    "measurements": [
        {"trial": "trl_01KARB0000000000000000000B", "attempt": 1, "epoch": 4, "train_loss": 0.21,
         "train_eval_loss": None, "validation_loss": 0.34, "metrics": {"accuracy": 0.914},
         "seconds": 0.8}
    ],
    "checkpoints": [
        {"trial": "trl_01KARB0000000000000000000B", "attempt": 1, "epoch": 5, "sha256": DIGEST,
         "bytes": 1077248, "format": "dropt-trainer/1"}
    ],
    "finished": [
        {"trial": "trl_01KARB0000000000000000000D", "attempt": 1, "outcome": "completed",
         "epoch": 27, "best_epoch": 21, "reason": None, "detail": None,
         "values": {"validation": {"loss": 0.31, "accuracy": 0.921}}, "scores": {"test": DIGEST}}
    ],
    "inspection": None, "done": False,
}  # fmt: skip


def test_report_of_the_documents_is_read() -> None:
    report = Report.model_validate(REPORT)
    assert report.finished[0].values["validation"]["accuracy"] == 0.921
    assert Report.model_validate_json(report.model_dump_json()) == report


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (Report, {"worker": "w", "sequence": 0}),
        (Report, {"worker": "w", "sequence": 1, "free_slots": -1}),
        (Report, {"worker": "w", "sequence": 1, "unknown": 1}),
        (Measurement, {"trial": "t", "attempt": 0, "epoch": 1}),
        (Measurement, {"trial": "t", "attempt": 1, "epoch": 0}),
        (Measurement, {"trial": "t", "attempt": 1, "epoch": 1, "seconds": -1}),
        (Measurement, {"trial": "t", "attempt": 1, "epoch": 1, "train_loss": float("nan")}),
        (Measurement, {"trial": "t", "attempt": 1, "epoch": 1, "metrics": {"f1": 1.0}}),
        (Finished, {"trial": "t", "attempt": 1, "epoch": 1, "outcome": "done"}),
        (Finished, {"trial": "t", "attempt": 1, "epoch": 1, "outcome": "failed", "reason": "x"}),
        (Finished, {"trial": "t", "attempt": 1, "epoch": 1, "outcome": "failed",
                    "detail": "x" * 501}),
        (Finished, {"trial": "t", "attempt": 1, "epoch": 1, "outcome": "completed",
                    "values": {"validation": {"loss": float("inf")}}}),
        (Finished, {"trial": "t", "attempt": 1, "epoch": 1, "outcome": "completed",
                    "scores": {"test": "../../etc/passwd"}}),
        (Checkpoint, {"trial": "t", "attempt": 1, "epoch": 1, "sha256": "A" * 64, "bytes": 1,
                      "format": "x"}),
        (LeaseRequest, {"worker": "w", "slots": 0}),
        (LeaseRequest, {"worker": "w", "slots": 1025}),
        (Heartbeat, {"leases": ["l"], "memory_free_bytes": -1}),
    ],
)  # fmt: skip
def test_what_a_worker_may_not_say_is_refused(
    model: type[BaseModel], fields: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError):
        model.model_validate(fields)


def test_worker_ignores_what_it_does_not_know_in_an_answer() -> None:
    answer = ReportAnswer.model_validate({"sequence": 1, "expires_in": 30, "later": {"a": 1}})
    assert (answer.add, answer.end) == ((), False)


def test_leases_read_back_as_themselves(done: Done) -> None:
    for lease in done.worker.leases:
        assert Lease.model_validate_json(lease.model_dump_json(by_alias=True)) == lease


def test_registration_and_inspection_read_back_as_themselves() -> None:
    assert Registration.model_validate_json(registration().model_dump_json()) == registration()
    assert Inspection.model_validate_json(inspection().model_dump_json()) == inspection()
