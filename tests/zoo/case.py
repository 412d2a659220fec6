"""What the zoo says of a model before the code has seen it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dropt_trainer.sites.trace import Inputs

# site, role, default kind, and why it is one
Line = tuple[str, str, str, str]


@dataclass(frozen=True)
class Case:
    """One model, its inputs, and what a reader of its code expects.

    Attributes:
        build: the model; its weights are overwritten, so what it draws does not matter.
        inputs: of 4 examples.
        output_layers: by the reader.
        sites: by the reader, each with its reason.
        exceptions: names of checks that this model cannot pass, with the reason in docs/models.md.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Inputs
    output_layers: tuple[str, ...]
    sites: tuple[Line, ...]
    exceptions: dict[str, str] = field(default_factory=dict)
    is_cheap: bool = False

    def model(self, seed: int = 0) -> nn.Module:
        """The model in training mode, with weights that are a function of the seed.

        None is zero, so that no site hides behind one: residual branches often begin there.
        """
        with torch.random.fork_rng():
            model = self.build()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * 0.3 if parameter.ndim > 1 else noise * 0.2 + 0.5)
        return model.train()


def square_mean(output: Tensor, targets: Tensor) -> Tensor:
    """A loss of any output; the targets do not matter."""
    return output.square().mean() + 0.0 * targets.sum()


def floats(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def tokens(*shape: int) -> Tensor:
    return torch.randint(2, 50, shape, generator=torch.Generator().manual_seed(7))


def layers(n: int, *lines: Line) -> tuple[Line, ...]:
    """The lines of each of n equal layers; `{i}` is the layer's number."""
    return tuple(
        (site.replace("{i}", str(i)), role, kind, why)
        for i in range(n)
        for site, role, kind, why in lines
    )
