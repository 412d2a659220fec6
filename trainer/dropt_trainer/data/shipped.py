"""How the arrays of each shipped file become rows, and how these are split."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from dropt_trainer.data.dataset import MASK, Dataset
from dropt_trainer.data.files import Array
from dropt_trainer.data.splits import Part, counted_split, hash_split

Arrays = Mapping[str, Array]
SPLIT_SEED = 0
DIGITS = tuple("0123456789")
STEPS = 32  # of a row of text: short enough to train on a CPU, long enough for some words
BREAK = "\n\n"  # between two sonnets


def mnist10k(arrays: Arrays) -> Dataset:
    """Images of 28 x 28, all with one scale."""
    labels = _labels(arrays)
    split = counted_split(labels.tolist(), seed=SPLIT_SEED, train=1000, validation=1000)
    return _classes(_scaled(arrays["x"], 1 / 255), labels, DIGITS, split)


def digits(arrays: Arrays) -> Dataset:
    """Images of 8 x 8."""
    labels = _labels(arrays)
    return _classes(_scaled(arrays["x"], 1 / 16), labels, DIGITS, _by_shares(labels))


def breast_cancer(arrays: Arrays) -> Dataset:
    """A table."""
    labels = _labels(arrays)
    return _classes(
        _scaled(arrays["x"], 1.0), labels, ("malignant", "benign"), _by_shares(labels),
        standardize=True,
    )  # fmt: skip


def japanese_vowels(arrays: Arrays) -> Dataset:
    """Utterances of 7 to 29 frames of 12 coefficients: `x` [N, 29, 12], 0 behind the last frame.

    `mask` [N, 29] says where frames are. The class is the speaker. Rows 270 to 639 are the test
    part of the authors, recorded on their own; a third of the others validates, by class.
    """
    labels, lengths = _labels(arrays), arrays["length"].astype(np.int64)
    n_steps = int(lengths.max())
    mask = np.arange(n_steps) < lengths[:, None]
    x = np.zeros((*mask.shape, 12), np.float32)
    x[mask] = arrays["frames"]
    split = torch.full((len(labels),), int(Part.TEST), dtype=torch.int8)
    own = torch.from_numpy(arrays["part"] == 0)
    split[own] = counted_split(
        labels[own].tolist(), seed=SPLIT_SEED, train=180, validation=int(own.sum()) - 180
    )
    speakers = tuple(f"speaker {i}" for i in range(1, 10))
    inputs = {"x": torch.from_numpy(x), MASK: torch.from_numpy(mask)}
    return _classes(inputs, labels, speakers, split, standardize=True, is_sequence=True)


def splice(arrays: Arrays) -> Dataset:
    """Windows of 60 nucleotides, A C G T as 0 to 3, around a possible border of an exon.

    300 rows train, 300 validate, 2,586 test.
    """
    labels = _labels(arrays)
    split = counted_split(labels.tolist(), seed=SPLIT_SEED, train=300, validation=300)
    x = torch.from_numpy(arrays["x"].astype(np.int64))
    names = ("exon-intron", "intron-exon", "neither")
    return _classes(x, labels, names, split, n_tokens=4)


def sonnets(arrays: Arrays) -> Dataset:
    """Characters of 154 sonnets in rows of 32, each to be told from those before it in its row.

    Rows do not overlap and do not reach over the end of a sonnet, whose last few characters are
    left out. Rows of a sonnet are a group: 0.2 of the sonnets train, 0.2 validate, 0.6 test.
    """
    text = arrays["text"].astype(np.uint8).tobytes().decode("ascii")
    alphabet = sorted(set(text))
    code = {character: i for i, character in enumerate(alphabet)}
    poems = [[code[character] for character in poem] for poem in text.split(BREAK)]
    rows = [(i, row) for i, poem in enumerate(poems) for row in _windows(poem)]
    ids = torch.tensor([row for _, row in rows])
    group = torch.tensor([i for i, _ in rows])
    return Dataset(
        x=ids[:, :-1].contiguous(), y=ids[:, 1:].contiguous(), task="next_token",
        n_outputs=len(alphabet), n_tokens=len(alphabet), class_names=tuple(alphabet), group=group,
        split=hash_split(
            len(rows), seed=SPLIT_SEED, train=0.2, validation=0.2, groups=group.tolist()
        ),
    )  # fmt: skip


def _windows(tokens: Sequence[int]) -> list[Sequence[int]]:
    """Rows of `STEPS` tokens and the one that follows."""
    return [tokens[i : i + STEPS + 1] for i in range(0, len(tokens) - STEPS, STEPS)]


def _labels(arrays: Arrays) -> Tensor:
    return torch.from_numpy(arrays["y"].astype(np.int64))


def _scaled(x: Array, scale: float) -> Tensor:
    """The stored numbers times one factor for every feature."""
    return torch.from_numpy((x.astype(np.float64) * scale).astype(np.float32))


def _by_shares(labels: Tensor) -> Tensor:
    n_rows = len(labels)
    return hash_split(n_rows, seed=SPLIT_SEED, train=0.6, validation=0.2, labels=labels.tolist())


def _classes(
    x: Tensor | dict[str, Tensor],
    labels: Tensor,
    names: tuple[str, ...],
    split: Tensor,
    *,
    standardize: bool = False,
    is_sequence: bool = False,
    n_tokens: int | None = None,
) -> Dataset:
    return Dataset(
        x=x, y=labels, task="classification", n_outputs=len(names), class_names=names,
        split=split, standardize=standardize, is_sequence=is_sequence, n_tokens=n_tokens,
    )  # fmt: skip
