import torch

from dropt_trainer.data.dataset import Dataset, count_tokens, take


def test_rows_are_taken_in_any_shape_from_each_input() -> None:
    x = torch.arange(24.0).view(6, 2, 2)
    rows = torch.tensor([[0, 5, 2], [1, 1, 3]])
    taken = take({"a": x, "b": x[:, 0, 0]}, rows)
    assert isinstance(taken, dict)
    assert torch.equal(taken["a"], x[rows])
    assert torch.equal(taken["b"], x[rows][:, :, 0, 0])
    alone = take(x, rows)
    assert isinstance(alone, torch.Tensor)
    assert torch.equal(alone, x[rows])


def test_a_data_set_knows_its_rows_and_the_shape_of_one() -> None:
    y = torch.zeros(6, dtype=torch.int64)
    one = Dataset(torch.zeros(6, 4, 4), y, "classification", 2)
    several = Dataset({"a": torch.zeros(6, 3), "b": torch.zeros(6)}, y, "classification", 2)
    assert (one.n_rows, one.input_shape) == (6, (4, 4))
    assert several.input_shape == (3,)
    assert (one.input_names, several.input_names) == ((), ("a", "b"))


def test_tokens_are_counted_from_the_largest_id_of_the_first_tensor() -> None:
    ids, mask = torch.tensor([[0, 4], [2, 1]]), torch.ones(2, 2, dtype=torch.bool)
    assert count_tokens(ids) == count_tokens({"ids": ids, "mask": mask}) == 5
    assert count_tokens(ids.float()) is None
    assert count_tokens(mask) is None
