from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits

from dropt.errors import DigestMismatch
from dropt_trainer.data import builtin
from dropt_trainer.data.builtin import DATASETS, load
from dropt_trainer.data.dataset import Dataset


def tensor(dataset: Dataset) -> torch.Tensor:
    assert isinstance(dataset.x, torch.Tensor)
    return dataset.x


def test_digits_are_the_ones_of_uci() -> None:
    ours, theirs = load("digits"), load_digits()
    assert ours.input_shape == (8, 8)
    np.testing.assert_allclose(tensor(ours).numpy() * 16, theirs.images, atol=0)
    assert ours.y.tolist() == theirs.target.tolist()


def test_breast_cancer_is_the_one_of_wisconsin() -> None:
    ours, theirs = load("breast_cancer"), load_breast_cancer()
    np.testing.assert_array_equal(tensor(ours).numpy(), theirs.data.astype(np.float32))
    assert ours.y.tolist() == theirs.target.tolist()
    assert list(ours.class_names) == list(theirs.target_names)
    assert ours.standardize


def test_mnist_has_one_scale_and_its_known_statistics() -> None:
    dataset = load("mnist10k")
    x = tensor(dataset)
    assert (dataset.n_rows, dataset.input_shape, dataset.n_outputs) == (10_000, (28, 28), 10)
    assert (float(x.min()), float(x.max())) == (0.0, 1.0)
    assert float(x.mean()) == pytest.approx(0.1307, abs=0.001)  # that of the full MNIST
    assert not dataset.standardize


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("mnist10k", [1000, 1000, 8000]),
        ("digits", [1074, 355, 368]),
        ("breast_cancer", [341, 113, 115]),
        ("splice", [300, 300, 2586]),
    ],
)
def test_the_split_is_fixed_and_stratified(name: str, counts: list[int]) -> None:
    dataset = load(name)
    assert dataset.split is not None
    assert torch.bincount(dataset.split.int()).tolist() == counts
    for label in range(dataset.n_outputs):
        of_class = dataset.y == label
        shares = [float((dataset.split[of_class] == part).float().mean()) for part in range(3)]
        expected = [count / dataset.n_rows for count in counts]
        assert shares == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("name", list(DATASETS))
def test_licence_source_and_digest_are_named(name: str) -> None:
    dataset = load(name)
    assert dataset.licence
    assert dataset.licence.startswith("CC BY") or dataset.licence == "Public domain"
    assert dataset.source
    assert dataset.name == name
    assert dataset.sha256 == DATASETS[name].sha256


def test_a_changed_file_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    about = replace(builtin.DATASETS["digits"], sha256="0" * 64)
    monkeypatch.setattr(builtin, "DATASETS", {"digits": about})
    with pytest.raises(DigestMismatch, match="digits"):
        load("digits")


def test_japanese_vowels_are_the_utterances_of_uci() -> None:
    dataset = load("japanese_vowels")
    assert isinstance(dataset.x, dict)
    x, mask = dataset.x["x"], dataset.x["mask"]
    assert (x.shape, mask.shape, mask.dtype) == ((640, 29, 12), (640, 29), torch.bool)
    assert (dataset.n_outputs, dataset.n_tokens, dataset.is_sequence) == (9, None, True)
    lengths = mask.sum(1)
    assert (int(lengths.min()), int(lengths.max())) == (7, 29)
    assert torch.equal(mask, torch.arange(29) < lengths[:, None])  # padding is at the end
    assert not bool(x[~mask].any())
    assert dataset.split is not None
    by_part = [torch.bincount(dataset.y[dataset.split == part]).tolist() for part in range(3)]
    # Kudo, Toyama and Shimbo tell 30 utterances of each speaker to train with, and these to test.
    assert by_part == [[20] * 9, [10] * 9, [31, 35, 88, 44, 29, 24, 40, 50, 29]]
    assert dataset.split[270:].tolist() == [2] * 370


def test_splice_has_the_known_signals_around_the_border() -> None:
    """Introns begin with GT and end with AG (Mount 1982), behind and before position 30."""
    dataset = load("splice")
    x = tensor(dataset)
    assert (x.shape, x.dtype, dataset.n_tokens) == ((3186, 60), torch.int64, 4)
    assert torch.bincount(dataset.y).tolist() == [767, 765, 1654]
    a, g, t = 0, 2, 3
    donors, acceptors = x[dataset.y == 0], x[dataset.y == 1]
    assert float((donors[:, 30:32] == torch.tensor([g, t])).float().mean()) > 0.98
    assert float((acceptors[:, 28:30] == torch.tensor([a, g])).float().mean()) > 0.98


def test_sonnets_are_read_character_by_character() -> None:
    dataset = load("sonnets")
    x = tensor(dataset)
    letters = dataset.class_names
    assert (dataset.task, dataset.n_outputs, dataset.n_tokens) == ("next_token", 38, 38)
    assert x.shape == dataset.y.shape
    assert x.shape[1] == 32
    assert torch.equal(x[:, 1:], dataset.y[:, :-1])  # what follows a step is the next step
    assert dataset.group is not None
    first = x[dataset.group == 0].flatten().tolist()
    text = "".join(letters[token] for token in first)
    assert text.startswith(
        "from fairest creatures we desire increase,\nthat thereby beauty's rose"
    )
    assert len(set(dataset.group.tolist())) == 154


def test_a_sonnet_is_in_one_part_of_the_split() -> None:
    dataset = load("sonnets")
    assert dataset.split is not None
    assert dataset.group is not None
    sonnets = [set(dataset.group[dataset.split == part].tolist()) for part in range(3)]
    assert [len(part) for part in sonnets] == [30, 30, 94]
    assert len(set.union(*sonnets)) == 154
