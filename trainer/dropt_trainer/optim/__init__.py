"""AdamW and SGD over the rows of a pack: one row of weights per trial, each with its own settings.

For each row: the penalties `l1 * sum|w| + l2 * sum w^2` join the gradient of the parameters of two
or more dimensions; the gradient is scaled by `min(1, clip / norm)`; then

- AdamW (Loshchilov and Hutter 2019): betas .9 and .999, eps 1e-8, `w *= 1 - lr * weight_decay` on
  every parameter, as `torch.optim.AdamW`;
- SGD: momentum .9, Nesterov. The decay is decoupled in the same way. `torch.optim.SGD` couples it:
  there, weight decay is an L2 penalty.

Float32 rows on a CPU go through one C function, on a CUDA device through Triton kernels; the rest,
and machines without a compiler or without Triton, through torch operations with the same formulas.
Nowhere does the host read a number, so that a step can be captured in a graph of the device.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dropt_trainer.native import load_library, load_triton

logger = logging.getLogger(__name__)

Family = Literal["adamw", "sgd"]

TRITON = "dropt_trainer.optim.kernels"
BETA1, BETA2, EPS, MOMENTUM = 0.9, 0.999, 1e-8, 0.9
N_MOMENTS = {"adamw": 2, "sgd": 1}


@dataclass(frozen=True)
class Params:
    """Optimizer settings of one trial; `clip` bounds the norm of the gradient, None does not."""

    lr: float
    weight_decay: float = 0.0
    l1: float = 0.0
    l2: float = 0.0
    clip: float | None = None


class Optimizer:
    """Updates rows of weights in place from rows of gradients.

    Attributes:
        moments: [K, P] each; two for AdamW (mean, mean of squares), one for SGD (velocity).
    """

    def __init__(
        self, family: Family, *, weight: Tensor, gradient: Tensor, age: Tensor, penalised: Tensor
    ) -> None:
        """Take the rows to work on.

        Args:
            family: which formulas.
            weight: [K, P], contiguous.
            gradient: [K, P], contiguous; read only.
            age: [K], int32, updates of each row with the coming one counted; read only.
            penalised: [P], Boolean, where l1 and l2 act.
        """
        self.family = family
        self.weight, self.gradient, self.age = weight, gradient, age
        self.moments = tuple(torch.zeros_like(weight) for _ in range(N_MOMENTS[family]))
        self._penalised = penalised.to(torch.uint8)
        self._settings = weight.new_zeros(5, len(weight))
        self._active = torch.zeros_like(age, dtype=torch.uint8)
        kind = weight.device.type if weight.dtype == torch.float32 else "none"
        library = load_library() if kind == "cpu" else None
        self._kernel = None if library is None else getattr(library, f"dropt_{family}")
        self._on_cuda = self._bind_triton() if kind == "cuda" else None
        self._pointers = [tensor.data_ptr() for tensor in self._arguments()]

    @property
    def rows(self) -> Sequence[Tensor]:
        """Everything of a trial that is kept here: [K, ...] each."""
        return (*self.moments, self._settings.T)

    def start(self, row: int, params: Params) -> None:
        """Begin a trial in a row: its settings, and moments of zero."""
        clip = float("inf") if params.clip is None else params.clip
        values = (params.lr, params.weight_decay, params.l1, params.l2, clip)
        self._settings[:, row] = self._settings.new_tensor(values)
        for moment in self.moments:
            moment[row].zero_()
        self._active[row] = 1

    def stop(self, row: int) -> None:
        """End a trial: the row is not trained; torch operations may leave any numbers in it."""
        self._active[row] = 0

    def step(self, n_rows: int) -> None:
        """Update the first `n_rows` rows, of which those without a trial do not matter."""
        if self._kernel is not None:
            self._kernel(*self._pointers, n_rows, self.weight.shape[1])
        elif self._on_cuda is not None:
            self._on_cuda(n_rows)
        else:
            self._step_in_torch(n_rows)

    def _bind_triton(self) -> Callable[[int], None] | None:
        """The Triton kernels on these rows; None where there is no Triton."""
        kernels = load_triton(TRITON, self.weight.device)
        if kernels is None:
            return None
        step: Callable[[int], None] = functools.partial(
            kernels.step, self.family, weight=self.weight, gradient=self.gradient,
            moments=self.moments, settings=self._settings, age=self.age,
            penalised=self._penalised, active=self._active,
            sums=kernels.partial_sums(self.weight),
        )  # fmt: skip
        return step

    def _arguments(self) -> Iterator[Tensor]:
        """What the C function reads and writes, in its order; none of it ever moves."""
        yield from (self.weight, self.gradient, *self.moments, *self._settings)
        if self.family == "adamw":
            yield self.age
        yield from (self._penalised, self._active)

    @torch.no_grad()
    def _step_in_torch(self, n_rows: int) -> None:
        lr, decay, l1, l2, clip = self._settings[:, :n_rows].unsqueeze(-1)
        weight = self.weight[:n_rows]
        penalty = (l1 * weight.sign() + 2 * l2 * weight) * self._penalised
        gradient = self.gradient[:n_rows] + penalty
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        gradient = gradient * torch.where(norm > clip, clip / norm, 1.0)
        moments = [moment[:n_rows] for moment in self.moments]
        direction = self._adamw if self.family == "adamw" else self._sgd
        weight.mul_(1 - lr * decay).sub_(lr * direction(gradient, *moments))

    def _adamw(self, gradient: Tensor, mean: Tensor, square: Tensor) -> Tensor:
        age = self.age[: len(gradient), None].to(torch.float64)
        correction1 = (1 - BETA1**age).to(gradient.dtype)
        correction2 = (1 - BETA2**age).sqrt().to(gradient.dtype)
        mean.lerp_(gradient, 1 - BETA1)
        square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        return mean / correction1 / (square.sqrt() / correction2 + EPS)

    def _sgd(self, gradient: Tensor, velocity: Tensor) -> Tensor:
        velocity.mul_(MOMENTUM).add_(gradient)
        return gradient + MOMENTUM * velocity
