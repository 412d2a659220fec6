"""Data sets by digest: those that come with the trainer, and uploads fetched from the service."""

import functools
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dropt.client import Client
from dropt.errors import DatasetUnreadable, DigestMismatch
from dropt.spec.job import Split
from dropt.spec.protocol import DatasetOffer, LeasedDataset, SplitName
from dropt_trainer.data import builtin
from dropt_trainer.data.dataset import Dataset
from dropt_trainer.data.files import load_npz
from dropt_trainer.data.placing import place
from dropt_trainer.data.prepare import Prepared
from dropt_trainer.data.splits import Part, split_rows
from dropt_trainer.device import free_memory
from dropt_trainer.fused.precision import DTYPES

N_KEPT = 4  # data sets in memory; a worker seldom has more than one job at a time


@dataclass(frozen=True)
class Wanted:
    """A data set as a lease asks for it; `parts` are all that may be read of it."""

    name: str
    sha256: str
    content: str | None
    split: Split | None
    parts: tuple[SplitName, ...]
    precision: str

    @classmethod
    def of(
        cls, leased: LeasedDataset, *, parts: tuple[SplitName, ...], precision: str
    ) -> "Wanted":
        return cls(leased.name, leased.sha256, leased.content, leased.split, parts, precision)


class DataSource:
    """Loads, splits and prepares data sets, and keeps the last few."""

    def __init__(
        self, client: Client, device: torch.device, own: Mapping[str, Dataset] | None = None
    ) -> None:
        """Take the users' own data sets, by name, beside those that come with the trainer."""
        self._client, self._device, self._own = client, device, own or {}
        self._load = functools.lru_cache(N_KEPT)(self._load_anew)
        self.prepare = functools.lru_cache(N_KEPT)(self._prepare_anew)
        """The data of a lease; see `_prepare_anew`."""

    def _prepare_anew(self, wanted: Wanted) -> Prepared:
        """The parts that may be read, on the device; a part that is not named is not there.

        Raises:
            DigestMismatch: neither the installed nor the uploaded data set has this digest.
            DatasetUnreadable: the file cannot be read, or the split leaves a part empty.
        """
        dataset = self._load(wanted.name, wanted.sha256, wanted.content)
        try:
            split = split_of(dataset, wanted.split)
        except ValueError as error:
            raise DatasetUnreadable(f"{error}") from error
        return place(
            dataset, split, parts=wanted.parts, device=self._device,
            dtype=DTYPES[wanted.precision], free_bytes=free_memory(self._device),
        )  # fmt: skip

    def _load_anew(self, name: str, sha256: str, content: str | None) -> Dataset:
        if name in self._own and self._own[name].sha256 == sha256:
            return self._own[name]
        if content is None:
            return installed(name, sha256)
        path = _cache_folder() / f"{sha256}.npz"
        if not path.exists():
            self._client.fetch(content, sha256, path)
        try:
            return load_npz(path.read_bytes(), name=name, sha256=sha256)
        except DigestMismatch:
            path.unlink()  # damaged at rest; the next attempt fetches it again
            raise


def split_of(dataset: Dataset, split: Split | None) -> Tensor:
    """The split of a lease; none means the data set's own."""
    shares = split or Split()
    return split_rows(
        dataset, None if split is None else split.method, seed=shares.seed, train=shares.train,
        validation=shares.validation,
    )  # fmt: skip


def offer_of(dataset: Dataset) -> DatasetOffer:
    """What a registration says of a data set."""
    split = split_of(dataset, None)
    rows: dict[SplitName, int] = {
        "train": int((split == Part.TRAIN).sum()),
        "validation": int((split == Part.VALIDATION).sum()),
        "test": int((split == Part.TEST).sum()),
    }
    return DatasetOffer(
        name=dataset.name, sha256=dataset.sha256, task=dataset.task, rows=dataset.n_rows,
        input_shape=dataset.input_shape, classes=len(dataset.class_names) or None,
        licence=dataset.licence, source=dataset.source, split_rows=rows,
    )  # fmt: skip


def installed(name: str, sha256: str) -> Dataset:
    """A data set that comes with the trainer. Raises DigestMismatch."""
    about = builtin.DATASETS.get(name)
    if about is None or about.sha256 != sha256:
        raise DigestMismatch(
            f"data set {name!r} of digest {sha256} is asked for, and this worker has "
            f"{'none of that name' if about is None else about.sha256}"
        )
    return builtin.load(name)


def _cache_folder() -> Path:
    """Where uploads are kept between runs; a temporary folder where the home cannot be written."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(base) / "dropt" / "datasets"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return _temporary_folder()
    return folder


@functools.cache
def _temporary_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="dropt-datasets-"))
