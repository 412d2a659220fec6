import hashlib

import pytest
import torch
from torch import Tensor

from dropt_trainer.data.dataset import Dataset
from dropt_trainer.data.splits import (
    Part,
    counted_split,
    hash_split,
    ordered_split,
    split_rows,
)


def dataset(n_rows: int = 10, *, split: Tensor | None = None) -> Dataset:
    labels = torch.arange(n_rows) % 2
    return Dataset(torch.zeros(n_rows, 1), labels, "classification", 2, split=split, name="few")


def test_the_hash_split_is_the_one_of_the_protocol() -> None:
    labels = [row % 3 for row in range(100)]
    split = hash_split(100, seed=7, train=0.6, validation=0.2, labels=labels)
    for label in range(3):
        rows = [row for row in range(100) if labels[row] == label]
        rows.sort(key=lambda row: hashlib.sha256(f"7:{row}".encode("ascii")).hexdigest())
        n_train, n_validation = int(0.6 * len(rows)), int(0.2 * len(rows))
        expected = [0] * n_train + [1] * n_validation
        expected += [2] * (len(rows) - len(expected))
        assert split[rows].tolist() == expected


def test_the_hash_split_of_a_regression_takes_all_rows_together() -> None:
    split = hash_split(11, seed=0, train=0.5, validation=0.25)
    order = sorted(range(11), key=lambda row: hashlib.sha256(f"0:{row}".encode()).digest())
    assert split[order].tolist() == [0] * 5 + [1] * 2 + [2] * 4


def test_another_seed_is_another_split() -> None:
    splits = [hash_split(50, seed=seed, train=0.6, validation=0.2) for seed in (0, 1)]
    assert not torch.equal(*splits)


def test_a_group_is_never_parted() -> None:
    groups = [f"patient {row // 4}" for row in range(80)]
    labels = [row % 2 for row in range(80)]
    split = hash_split(80, seed=3, train=0.6, validation=0.2, labels=labels, groups=groups)
    assert all(len(set(split[start : start + 4].tolist())) == 1 for start in range(0, 80, 4))
    order = sorted(
        set(groups), key=lambda group: hashlib.sha256(f"3:{group}".encode("ascii")).digest()
    )
    parts = [int(split[groups.index(group)]) for group in order]
    assert parts == [0] * 12 + [1] * 4 + [2] * 4


def test_a_counted_split_has_exact_counts_and_every_class_its_share() -> None:
    labels = [0] * 37 + [1] * 61 + [2] * 22
    split = counted_split(labels, seed=0, train=50, validation=31)
    assert torch.bincount(split.int()).tolist() == [50, 31, 39]
    for label in range(3):
        rows = [row for row, other in enumerate(labels) if other == label]
        n_train = int((split[rows] == Part.TRAIN).sum())
        assert abs(n_train - 50 * len(rows) / 120) < 1


def test_a_counted_split_keeps_the_order_of_the_hash_split() -> None:
    labels = [0] * 40
    split = counted_split(labels, seed=0, train=24, validation=8)
    assert torch.equal(split, hash_split(40, seed=0, train=0.6, validation=0.2))


def test_an_ordered_split_goes_by_row() -> None:
    assert ordered_split(5, train=0.6, validation=0.2).tolist() == [0, 0, 0, 1, 2]


def test_a_data_set_comes_with_its_split_unless_another_is_asked_for() -> None:
    given = torch.tensor([2, 1, 0, 0, 0, 0, 1, 1, 2, 2], dtype=torch.int8)
    own = dataset(split=given)
    hashed = hash_split(10, seed=0, train=0.6, validation=0.2, labels=own.y.tolist())
    ordered = ordered_split(10, train=0.6, validation=0.2)

    def asked(data: Dataset, method: str | None) -> Tensor:
        return split_rows(data, method, seed=0, train=0.6, validation=0.2)

    assert torch.equal(asked(own, None), given)
    assert torch.equal(asked(own, "given"), given)
    assert torch.equal(asked(own, "hash"), hashed)
    assert torch.equal(asked(own, "ordered"), ordered)
    assert torch.equal(asked(dataset(), None), hashed)


def test_a_given_split_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="comes with no split"):
        split_rows(dataset(), "given", seed=0, train=0.6, validation=0.2)


def test_a_split_without_validation_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="no validation rows among 4"):
        split_rows(dataset(4), "hash", seed=0, train=0.6, validation=0.2)


def test_groups_of_a_data_set_are_respected() -> None:
    grouped = Dataset(
        torch.zeros(20, 1), torch.arange(20) % 2, "classification", 2, group=torch.arange(20) // 4
    )
    split = split_rows(grouped, "hash", seed=0, train=0.6, validation=0.2).view(5, 4)
    assert bool((split == split[:, :1]).all())
