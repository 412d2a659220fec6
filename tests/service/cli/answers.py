"""Answers of the API as the command line gets them, built by hand."""

from datetime import UTC, datetime
from typing import Any

from dropt.spec.results import ArmProgress, BestRead, EvidenceProgress, JobRead, VerdictRead

JOB = "job_01KAR9V1X8W0E3Q4T5Y6Z7A8B9"
SUMMARY = (
    "Dropout helps: 93.4 % -> 94.3 % test accuracy (+0.91 points, 95 % interval +0.40 to +1.42, "
    "8 seeds, 997 examples)"
)


def verdict(**changes: Any) -> VerdictRead:  # any field of the answer
    fields = {
        "job": JOB, "revision": 3, "provisional": False, "verdict": "helps", "summary": SUMMARY,
        "metric": "accuracy", "direction": "maximize", "min_effect": 0.005, "effect": 0.0091,
        "interval": (0.004, 0.0142), "seeds": 8, "examples": 997, "cost": {"device_seconds": {}},
        **changes,
    }  # fmt: skip
    return VerdictRead.model_validate(fields)


def site(name: str, rate: float, units: int | None = 128, kind: str = "element") -> dict[str, Any]:
    return {"site": name, "layer": "Linear", "kind": kind, "units": units, "rate": rate}


def configuration(arm: str, *sites: dict[str, Any]) -> dict[str, Any]:
    return {"arm": arm, "trial": "trl_1", "value": 0.94, "sites": sites, "other": {"lr": 0.003}}


def best(recommended: dict[str, Any], *alternatives: dict[str, Any], **changes: Any) -> BestRead:
    fields = {
        "job": JOB, "revision": 3, "provisional": False, "model": "mlp", "dataset": "digits",
        "verdict": "helps", "summary": SUMMARY, "recommended": recommended,
        "alternatives": alternatives, "reproduce": {}, "links": {},
        "never_dropped": [{"site": "layers.4:out", "layer": None, "reason": "output_layer"}],
        **changes,
    }  # fmt: skip
    return BestRead.model_validate(fields)


def job(
    *, fraction: float = 0.0, phase: str | None = "search", state: str = "running",
    arms: tuple[ArmProgress, ...] = (), evidence: EvidenceProgress | None = None, **changes: Any,
) -> JobRead:  # fmt: skip
    fields = {
        "id": JOB, "revision": 1, "name": "mlp on digits", "labels": {}, "priority": 0,
        "state": state, "phase": phase, "done": state in {"succeeded", "failed", "cancelled"},
        "ended_by": None, "reason": None, "created_at": datetime(2026, 11, 23, tzinfo=UTC),
        "started_at": None, "finished_at": None,
        "progress": {"fraction": fraction, "arms": arms,
                     "evidence": evidence or EvidenceProgress()},
        "consumed": {}, "verdict": None, "warnings": (), "failure": None, "links": {},
        "spec": {
            "model": {"name": "mlp"}, "dataset": {"name": "digits"}, "dataset_sha256": "0" * 64,
            "task": "classification", "objective": {"metric": "accuracy",
                                                    "direction": "maximize"},
            "compare": {}, "search": {}, "budget": {}, "evidence": {}, "resources": {},
            "training": {"loss": "cross_entropy", "metrics": ["accuracy"]},
        },
        **changes,
    }  # fmt: skip
    return JobRead.model_validate(fields)


def arm(name: str, *, complete: int = 0, pruned: int = 0, target: int = 64,
        best_value: float | None = None) -> ArmProgress:  # fmt: skip
    return ArmProgress(
        arm=name, target=target, complete=complete, pruned=pruned, running=0, waiting=0, failed=0,
        best_value=best_value,
    )  # fmt: skip
