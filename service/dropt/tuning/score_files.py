"""Per-example scores of a training, as a worker uploads them: safetensors, checked before use.

The file comes from a worker, so its header is read and compared first: exact names, types and
sizes, and nothing else (no pickle can be in it).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from dropt.errors import FieldError, InvalidRequest
from dropt.spec.job import Metric, Task
from dropt.tuning.scores import constant_class_scores, constant_value_scores

Floats = npt.NDArray[np.float64]
MAX_HEADER: Final = 64 << 10  # bytes
MAX_TOKENS: Final = 1 << 24  # float32 tells no more whole numbers apart
_REQUIRED: Final = {"row": {"I64"}, "loss": {"F32"}, "prediction": {"F32"},
                    "target": {"I64", "F32"}}  # fmt: skip
_OPTIONAL: Final = {"group": {"I64"}}


@dataclass(frozen=True, eq=False)
class ScoreFile:
    """Scores of N test examples, in the order of the split.

    `row` [N] are rows of the data set, `loss` [N], `prediction` [N, C] probabilities or [N, D]
    values, `target` [N] classes or [N, D] values, `group` [N] or None. Where next tokens are told,
    `prediction` [N, T] is the likeliest token at each step and `target` [N, T] the one that came.
    """

    row: npt.NDArray[np.int64]
    loss: npt.NDArray[np.float32]
    prediction: npt.NDArray[np.float32]
    target: npt.NDArray[np.generic]
    group: npt.NDArray[np.int64] | None

    def scores(self, metric: Metric) -> npt.NDArray[np.float64]:
        """The metric of each example, [N]: the loss, or the share of it that is right."""
        if metric == "accuracy":
            if self.target.ndim == 2:  # tokens; classes have one dimension
                return np.asarray((self.prediction == self.target).mean(axis=1), dtype=np.float64)
            is_right = self.prediction.argmax(axis=1) == self.target
            return np.asarray(is_right, dtype=np.float64)
        return np.asarray(self.loss, dtype=np.float64)


def read_scores(path: Path) -> ScoreFile:
    """The scores in a file.

    Raises:
        InvalidRequest: the header names something else, sizes differ, or a loss or prediction is
            not finite.
    """
    content = path.read_bytes()
    _check_header(content)
    try:
        tensors = safetensors.numpy.load(content)
    except SafetensorError as error:
        raise _refused(f"{error}") from error
    if any(tensor.ndim == 0 for tensor in tensors.values()):
        raise _refused("a tensor has no dimension")
    file = ScoreFile(
        row=tensors["row"], loss=tensors["loss"], prediction=tensors["prediction"],
        target=tensors["target"], group=tensors.get("group"),
    )  # fmt: skip
    n = len(file.row)
    if n == 0 or any(len(tensor) != n for tensor in tensors.values()):
        raise _refused(f"the tensors have {sorted({len(t) for t in tensors.values()})} rows")
    _check_content(file)
    return file


def constant_scores(like: ScoreFile, task: Task) -> ScoreFile:
    """The same rows as a constant would predict them: the scores of a training that diverged.

    The scored rows stand for the training rows, which only workers have: the split is drawn by
    class, so the frequencies of the classes agree.
    """
    loss, prediction = _CONSTANTS[task](like)
    return replace(like, loss=loss.astype(np.float32), prediction=prediction.astype(np.float32))


def _constant_value(like: ScoreFile) -> tuple[Floats, Floats]:
    """The mean of the targets."""
    targets = np.asarray(like.target, dtype=np.float64)
    mean = targets.mean(axis=0)
    prediction = np.broadcast_to(np.reshape(mean, (1, -1)), (len(targets), np.size(mean)))
    return constant_value_scores(mean, targets), prediction


def _constant_class(like: ScoreFile) -> tuple[Floats, Floats]:
    """The frequencies of the classes."""
    n, n_classes = like.prediction.shape
    counts = np.bincount(like.target.astype(np.int64), minlength=n_classes)
    prediction = np.broadcast_to((counts + 1.0) / (n + len(counts)), (n, len(counts)))
    return constant_class_scores("nll", counts, like.target), prediction


def _constant_token(like: ScoreFile) -> tuple[Floats, Floats]:
    """The frequencies of the tokens, and the most frequent one; a tie goes to the lowest."""
    tokens = like.target.astype(np.int64)
    counts = np.bincount(tokens.ravel())
    losses = constant_class_scores("nll", counts, tokens.ravel()).reshape(tokens.shape)
    return losses.mean(axis=1), np.full(tokens.shape, float(counts.argmax()))


_CONSTANTS: Final[dict[Task, Callable[[ScoreFile], tuple[Floats, Floats]]]] = {
    "classification": _constant_class, "regression": _constant_value,
    "next_token": _constant_token,
}  # fmt: skip


def _check_content(file: ScoreFile) -> None:
    if file.row.ndim != 1 or file.loss.ndim != 1 or file.prediction.ndim != 2:
        raise _refused("row and loss need one dimension, prediction two")
    is_tokens = file.target.ndim == 2 and file.target.dtype == np.int64
    if is_tokens and not _are_tokens(file.target, file.prediction):
        raise _refused(f"prediction and target need a token below {MAX_TOKENS} for each step")
    if file.group is not None and file.group.ndim != 1:
        raise _refused("group needs one dimension")
    if not np.isfinite(file.loss).all() or not np.isfinite(file.prediction).all():
        raise _refused("a loss or a prediction is not finite")


def _are_tokens(target: npt.NDArray[np.generic], prediction: npt.NDArray[np.float32]) -> bool:
    codes = target.astype(np.int64)
    known = (codes >= 0) & (codes < MAX_TOKENS)
    return target.shape == prediction.shape and codes.size > 0 and bool(known.all())


def _check_header(content: bytes) -> None:
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > min(MAX_HEADER, len(content) - 8):
        raise _refused(f"the header is {size} bytes")
    try:
        header = json.loads(content[8 : 8 + size])
    except (ValueError, RecursionError) as error:
        raise _refused("the header is not JSON") from error
    if not isinstance(header, dict):
        raise _refused("the header is no object")
    types = {
        name: str(entry.get("dtype")) if isinstance(entry, dict) else None
        for name, entry in header.items()
        if name != "__metadata__"
    }
    allowed = _REQUIRED | _OPTIONAL
    wrong = [name for name, dtype in types.items() if dtype not in allowed.get(name, ())]
    if missing := _REQUIRED.keys() - types.keys():
        raise _refused(f"{sorted(missing)} are missing")
    if wrong:
        raise _refused(f"{sorted(wrong)} are not expected, or have another type")


def _refused(why: str) -> InvalidRequest:
    message = f"The scores file is not accepted: {why}."
    return InvalidRequest.of(FieldError("/finished", "scores-unreadable", message))
