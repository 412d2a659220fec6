from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dropt_trainer.data.dataset import Dataset, Inputs
from dropt_trainer.data.prepare import prepare

SPLIT = torch.tensor([0, 0, 0, 0, 1, 2], dtype=torch.int8)
# Two features: one varies, one is constant in the training rows and something else later.
X = torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0], [6.0, 5.0], [1e6, 1e6], [-1.0, 5.0]])
Y = torch.tensor([10.0, 20.0, 30.0, 60.0, 1e9, 5.0])


def regression(x: Inputs = X, *, standardize: bool = True) -> Dataset:
    return Dataset(x, Y, "regression", 1, standardize=standardize)


def tensor(inputs: object) -> Tensor:
    assert isinstance(inputs, Tensor)
    return inputs


def test_features_are_standardised_by_the_training_rows_alone() -> None:
    data = prepare(regression(), SPLIT, dtype=torch.float64)
    mean, deviation = 3.0, (14 / 4) ** 0.5  # of 1, 2, 3, 6
    train = tensor(data.parts["train"].x)
    torch.testing.assert_close(train[:, 0], (X[:4, 0].double() - mean) / deviation)
    assert float(tensor(data.parts["validation"].x)[0, 0]) == pytest.approx((1e6 - 3) / deviation)


def test_a_feature_that_is_constant_in_training_becomes_0_everywhere() -> None:
    data = prepare(regression(), SPLIT, parts=("validation", "test"))
    for part in ("train", "validation", "test"):
        assert not bool(tensor(data.parts[part].x)[:, 1].any())


def test_a_regression_target_goes_there_and_back() -> None:
    data = prepare(regression(), SPLIT, parts=("validation", "test"), dtype=torch.float64)
    assert data.target_mean is not None
    assert data.target_scale is not None
    train = data.parts["train"].y
    assert train.shape == (4, 1)
    assert float(train.mean()) == pytest.approx(0, abs=1e-12)
    assert float(train.std(correction=0)) == pytest.approx(1)
    for part, rows in (("train", slice(0, 4)), ("validation", slice(4, 5)), ("test", slice(5, 6))):
        back = data.parts[part].y * data.target_scale + data.target_mean
        torch.testing.assert_close(back[:, 0], Y[rows].double())


def test_a_constant_target_keeps_its_unit() -> None:
    constant = Dataset(X, torch.full((6,), 3.0), "regression", 1, standardize=True)
    data = prepare(constant, SPLIT)
    assert data.target_scale is not None
    assert data.target_scale.tolist() == [1.0]
    assert data.parts["train"].y.tolist() == [[0.0]] * 4


def test_without_the_wish_nothing_is_scaled() -> None:
    data = prepare(regression(standardize=False), SPLIT)
    assert torch.equal(tensor(data.parts["train"].x), X[:4])
    assert torch.equal(data.parts["train"].y[:, 0], Y[:4])


def test_images_have_one_scale_for_all_pixels() -> None:
    x = torch.randn(6, 4, 4, generator=torch.Generator().manual_seed(0)) * 3 + 2
    train = tensor(prepare(regression(x), SPLIT).parts["train"].x)
    torch.testing.assert_close(train, (x[:4] - x[:4].mean()) / x[:4].std(correction=0))


def test_the_test_rows_are_not_there_unless_they_may_be_scored() -> None:
    assert set(prepare(regression(), SPLIT).parts) == {"train", "validation"}
    data = prepare(regression(), SPLIT, parts=("train", "validation", "test"))
    assert data.parts["test"].rows.tolist() == [5]


def test_token_ids_and_labels_are_left_alone() -> None:
    tokens = torch.arange(12).view(6, 2)
    labels, group = torch.tensor([0, 1, 0, 1, 0, 1]), torch.tensor([1, 1, 2, 2, 3, 4])
    dataset = Dataset(
        {"ids": tokens, "extra": X}, labels, "classification", 2, group=group, standardize=True
    )
    data = prepare(dataset, SPLIT, dtype=torch.float64)
    train = data.parts["train"]
    assert isinstance(train.x, dict)
    assert torch.equal(train.x["ids"], tokens[:4])
    assert train.x["extra"].dtype == torch.float64
    assert float(train.x["extra"][:, 0].mean()) == pytest.approx(0, abs=1e-12)
    assert train.y.dtype == torch.int64
    assert train.group is not None
    assert train.group.tolist() == [1, 1, 2, 2]
    assert data.target_scale is None


def masked() -> Dataset:
    """Six sequences of up to 4 steps of 2 features; the padding holds 1e6."""
    lengths = torch.tensor([1, 2, 3, 4, 4, 2])
    mask = torch.arange(4) < lengths[:, None]
    x = torch.randn(6, 4, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 0.1])
    return Dataset(
        {"x": torch.where(mask[..., None], x, 1e6), "mask": mask}, torch.arange(6) % 2,
        "classification", 2, standardize=True, is_sequence=True,
    )  # fmt: skip


def test_each_feature_of_a_sequence_has_its_scale_and_padding_none() -> None:
    dataset = masked()
    prepared = prepare(dataset, SPLIT, dtype=torch.float64).parts
    assert isinstance(dataset.x, dict)
    for part, rows in (("train", slice(0, 4)), ("validation", slice(4, 5))):
        got = prepared[part].x
        assert isinstance(got, dict)
        assert torch.equal(got["mask"], dataset.x["mask"][rows])
        assert not bool(got["x"][~got["mask"]].any())
    train = prepared["train"].x
    assert isinstance(train, dict)
    steps = train["x"][train["mask"]]
    assert steps.shape == (10, 2)
    torch.testing.assert_close(steps.mean(0), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(
        steps.std(0, correction=0), torch.ones(2, dtype=torch.float64), atol=1e-12, rtol=0
    )


def test_a_sequence_without_a_mask_is_scaled_by_feature_too() -> None:
    x = torch.randn(6, 4, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 0.1])
    dataset = replace(regression(x), is_sequence=True)
    train = tensor(prepare(dataset, SPLIT, dtype=torch.float64).parts["train"].x).reshape(-1, 2)
    torch.testing.assert_close(train.std(0, correction=0), torch.ones(2, dtype=torch.float64))


def test_a_series_of_numbers_with_a_mask_has_one_scale() -> None:
    mask = torch.tensor([[True, False]] * 6)
    dataset = replace(regression({"x": X, "mask": mask}), is_sequence=True)
    train = prepare(dataset, SPLIT, dtype=torch.float64).parts["train"].x
    assert isinstance(train, dict)
    assert float(train["x"][:, 0].mean()) == pytest.approx(0, abs=1e-12)
    assert not bool(train["x"][:, 1].any())


def test_what_a_model_has_to_know_of_the_data_is_kept() -> None:
    data = prepare(replace(masked(), n_tokens=7), SPLIT)
    assert (data.input_shape, data.input_names, data.n_tokens) == ((4, 2), ("x", "mask"), 7)
    plain = prepare(regression(), SPLIT)
    assert (plain.input_shape, plain.input_names, plain.n_tokens) == ((2,), (), None)


def test_next_tokens_stay_a_row_of_tokens() -> None:
    tokens = torch.arange(24).view(6, 4) % 5
    dataset = Dataset(tokens, tokens + 1, "next_token", 6, n_tokens=6)
    train = prepare(dataset, SPLIT).parts["train"]
    assert torch.equal(train.y, tokens[:4] + 1)
    assert train.y.dtype == torch.int64
