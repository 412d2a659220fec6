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
    assert dataset.licence.startswith("CC BY")
    assert dataset.source
    assert dataset.name == name
    assert dataset.sha256 == DATASETS[name].sha256


def test_a_changed_file_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    about = builtin.DATASETS["digits"]
    other = builtin.BuiltIn(**{**vars(about), "sha256": "0" * 64})
    monkeypatch.setattr(builtin, "DATASETS", {"digits": other})
    with pytest.raises(DigestMismatch, match="digits"):
        load("digits")
