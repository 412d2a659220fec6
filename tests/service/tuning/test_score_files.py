import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.factories import score_file

from dropt.errors import InvalidRequest
from dropt.tuning.score_files import MAX_HEADER, ScoreFile, constant_scores, read_scores

LOSSES = np.linspace(0.1, 2.0, 60)


def tensors(**changes: npt.NDArray[Any] | None) -> dict[str, npt.NDArray[Any]]:
    whole = safetensors.numpy.load(score_file(LOSSES)) | changes
    return {name: tensor for name, tensor in whole.items() if tensor is not None}


def read(folder: Path, content: bytes) -> ScoreFile:
    (folder / "scores").write_bytes(content)
    return read_scores(folder / "scores")


def test_file_gives_its_tensors_and_the_metric_of_each_example(tmp_path: Path) -> None:
    group = np.arange(60, dtype=np.int64) // 2
    file = read(tmp_path, safetensors.numpy.save(tensors(group=group)))
    np.testing.assert_array_equal(file.row, np.arange(60))
    np.testing.assert_array_equal(file.scores("nll"), LOSSES.astype(np.float32))
    np.testing.assert_array_equal(file.scores("accuracy"), np.arange(60) % 10 != 0)
    assert file.group is not None
    assert {file.scores("nll").dtype.name, file.scores("accuracy").dtype.name} == {"float64"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss": None}, "'loss'"),
        ({"extra": np.zeros(60, np.float32)}, "'extra'"),
        ({"loss": LOSSES}, "'loss'"),  # float64
        ({"row": np.arange(60, dtype=np.int32)}, "'row'"),
        ({"loss": LOSSES[:-1].astype(np.float32)}, "59"),
        ({"loss": np.full(60, np.nan, np.float32)}, "not finite"),
        ({"prediction": np.full((60, 2), np.inf, np.float32)}, "not finite"),
        ({"prediction": np.zeros(60, np.float32)}, "prediction two"),
        ({"loss": np.zeros((60, 1), np.float32)}, "one dimension"),
        ({"group": np.zeros((60, 1), np.int64)}, "one dimension"),
        ({"loss": np.array(0.5, np.float32)}, "no dimension"),
    ],
)  # fmt: skip
def test_file_with_other_tensors_is_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(tmp_path, safetensors.numpy.save(tensors(**changes)))
    assert [error.code for error in caught.value.errors] == ["scores-unreadable"]
    assert said in caught.value.errors[0].message


def test_file_without_rows_is_refused(tmp_path: Path) -> None:
    empty = {name: tensor[:0] for name, tensor in tensors().items()}
    with pytest.raises(InvalidRequest):
        read(tmp_path, safetensors.numpy.save(empty))


def framed(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\x00" * 7, b"\xff" * 64, framed(b"[]"), framed(b"null"), framed(b"{"),
        framed(b'{"loss": 5}'), framed(b"[" * 60_000), framed(b'"' + b"x" * MAX_HEADER + b'"'),
        framed(b'{"row": {"dtype": ["I64"]}}'),
    ],
)  # fmt: skip
def test_file_that_is_no_such_file_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read(tmp_path, content)


def test_offsets_beyond_the_file_are_refused(tmp_path: Path) -> None:
    content = score_file(LOSSES)
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["loss"]["data_offsets"] = [0, 1 << 40]
    with pytest.raises(InvalidRequest):
        read(tmp_path, framed(json.dumps(header).encode()) + content[8 + size :])


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_file_is_read_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(score_file(LOSSES))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, min(len(content) - 1, 600)))
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    try:
        file = read(tmp_path_factory.getbasetemp(), bytes(content[: max(cut, 300)]))
    except InvalidRequest:
        return
    assert np.isfinite(file.loss).all()


# ---- the scores of a training that diverged


def test_constant_of_classes_is_their_frequency(tmp_path: Path) -> None:
    like = read(tmp_path, score_file(LOSSES))
    constant = constant_scores(like, "classification")
    prior = np.array([54 + 1, 6 + 1]) / 62
    np.testing.assert_allclose(constant.scores("nll"), -np.log(prior[like.target]), rtol=1e-6)
    np.testing.assert_array_equal(constant.scores("accuracy"), like.target == 0)
    np.testing.assert_array_equal(constant.row, like.row)


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_constant_of_numbers_is_their_mean(tmp_path: Path, n_outputs: int) -> None:
    target = np.random.default_rng(1).normal(3, 2, (60, n_outputs)).astype(np.float32)
    file = tensors(target=target, prediction=np.zeros((60, n_outputs), np.float32))
    like = read(tmp_path, safetensors.numpy.save(file))
    constant = constant_scores(like, "regression")
    expected = ((target - target.mean(axis=0)) ** 2).mean(axis=1)
    np.testing.assert_allclose(constant.scores("mse"), expected, rtol=1e-4)
    assert constant.prediction.shape == (60, n_outputs)


# ---- next tokens

TOKENS = np.array([[0, 2, 2], [2, 1, 2], [0, 0, 2], [3, 2, 0]] * 15, np.int64)


def token_file(**changes: npt.NDArray[Any] | None) -> bytes:
    told: dict[str, npt.NDArray[Any] | None] = {
        "target": TOKENS, "prediction": np.full(TOKENS.shape, 2, np.float32),
    }  # fmt: skip
    return safetensors.numpy.save(tensors(**{**told, **changes}))


def test_accuracy_of_next_tokens_is_the_share_of_the_steps(tmp_path: Path) -> None:
    file = read(tmp_path, token_file())
    np.testing.assert_allclose(file.scores("accuracy")[:4], [2 / 3, 2 / 3, 1 / 3, 1 / 3])
    np.testing.assert_array_equal(file.scores("nll"), LOSSES.astype(np.float32))


def test_constant_of_tokens_is_their_frequency_at_each_step(tmp_path: Path) -> None:
    constant = constant_scores(read(tmp_path, token_file()), "next_token")
    counts = np.array([60, 15, 90, 15])  # of 180
    losses = -np.log((counts + 1) / (180 + 4))
    np.testing.assert_allclose(constant.scores("nll"), losses[TOKENS].mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(constant.scores("accuracy"), (TOKENS == 2).mean(axis=1))


@pytest.mark.parametrize(
    "changes",
    [
        {"prediction": np.zeros((60, 4), np.float32)},
        {"target": TOKENS - 1},
        {"target": TOKENS + (1 << 40)},  # would be counted in a table of so many entries
        {"target": TOKENS[:, :0], "prediction": np.zeros((60, 0), np.float32)},
    ],
)
def test_tokens_that_fit_no_vocabulary_are_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(tmp_path, token_file(**changes))
    assert "a token below 16777216 for each step" in caught.value.errors[0].message
