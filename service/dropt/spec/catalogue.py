"""What a job may name, and who works, as the API shows them."""

from datetime import datetime
from typing import Literal

from dropt.spec.job import Task
from dropt.spec.protocol import DatasetOffer, Device, ModelOffer
from dropt.spec.record import Answer


class ModelRead(Answer):
    """A model that workers offer."""

    name: str
    tasks: tuple[Task, ...]
    args_schema: dict[str, object]
    workers: int

    @classmethod
    def of(cls, offer: ModelOffer, workers: int) -> "ModelRead":
        return cls(
            name=offer.name, tasks=offer.tasks, args_schema=dict(offer.args_schema),
            workers=workers,
        )  # fmt: skip


class DatasetRead(Answer):
    """A data set that can be named in a job."""

    name: str
    kind: Literal["offered", "uploaded"]
    task: Task
    rows: int
    input_shape: tuple[int, ...]
    classes: int | None
    licence: str | None
    source: str | None
    sha256: str
    split_rows: dict[str, int]
    workers: int

    @classmethod
    def of(cls, offer: DatasetOffer, kind: Literal["offered", "uploaded"],
           workers: int) -> "DatasetRead":  # fmt: skip
        return cls(
            name=offer.name, kind=kind, task=offer.task, rows=offer.rows,
            input_shape=offer.input_shape, classes=offer.classes, licence=offer.licence,
            source=offer.source, sha256=offer.sha256,
            split_rows={str(name): rows for name, rows in offer.split_rows.items()},
            workers=workers,
        )  # fmt: skip


class WorkerRead(Answer):
    """One worker."""

    id: str
    name: str
    state: Literal["live", "draining", "gone"]
    device: Device
    slots_busy: int
    slots_total: int
    job: str | None
    last_seen: datetime
    versions: dict[str, str]
