"""What jobs may name: models, data sets, and who works on them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dropt.client.connection import FILE_TIMEOUT_S, FIRST_WORKER_S, Connection, part
from dropt.spec.catalogue import DatasetRead, ModelRead, WorkerRead
from dropt.spec.inspection import Inspection
from dropt.spec.job import Task
from dropt.spec.preview import LookPending


class Catalogue(Connection):
    """What a user may name."""

    def list_models(self) -> list[ModelRead]:
        """The models that workers offer."""
        return list(self._items("/v1/models", ModelRead))

    def inspect_model(
        self, model: str, dataset: str, *, args: Mapping[str, Any] | None = None, wait_s: int = 0
    ) -> Inspection | LookPending:
        """The sites of a model on a data set, once a worker has looked."""
        content = json.dumps({"dataset": dataset, "args": dict(args or {})}).encode()
        path = f"/v1/models/{part(model)}/inspect"
        answer: Any = Inspection | LookPending
        found: Inspection | LookPending = self._post(
            path, answer, content, wait_s=wait_s, patience_s=FIRST_WORKER_S
        )
        return found

    def list_datasets(self) -> list[DatasetRead]:
        """The data sets that workers offer or users uploaded."""
        return list(self._items("/v1/datasets", DatasetRead))

    def add_dataset(
        self, path: Path, *, name: str | None = None, target: str | None = None,
        task: Task | str | None = None,
    ) -> DatasetRead:  # fmt: skip
        """Upload a csv or npz file."""
        fields = {"name": name, "target": target, "task": task}
        with path.open("rb") as file:
            return self._ask(
                "POST", "/v1/datasets", DatasetRead, files={"file": (path.name, file)},
                data={field: value for field, value in fields.items() if value is not None},
                timeout=FILE_TIMEOUT_S,
            )  # fmt: skip

    def list_workers(self) -> list[WorkerRead]:
        """The workers, newest first."""
        return list(self._items("/v1/workers", WorkerRead))

    def delete_dataset(self, name: str) -> None:
        """Delete an uploaded data set.

        Raises:
            InUse: unfinished jobs train on it.
        """
        self._send("DELETE", f"/v1/datasets/{part(name)}")
