"""A residual network for small images (He et al. 2016, section 4.2)."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from dropt_trainer.models.images import image_shape

Width = Annotated[int, Field(ge=1, le=4_096)]


class Block(nn.Module):
    """Two convolutions beside a shortcut; each activation is a module of its own."""

    def __init__(self, n_inputs: int, n_maps: int, stride: int, *, batch_norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_inputs, n_maps, 3, stride, padding=1, bias=not batch_norm)
        self.norm1 = nn.BatchNorm2d(n_maps) if batch_norm else None
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(n_maps, n_maps, 3, padding=1, bias=not batch_norm)
        self.norm2 = nn.BatchNorm2d(n_maps) if batch_norm else None
        is_same = stride == 1 and n_inputs == n_maps
        self.shortcut = None if is_same else nn.Conv2d(n_inputs, n_maps, 1, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, n_inputs, H, W] to [B, n_maps, H / stride, W / stride], rounded up."""
        maps = self.relu1(_after(self.norm1, self.conv1(x)))
        branch = _after(self.norm2, self.conv2(maps))
        out: Tensor = self.relu2(_after(self.shortcut, x) + branch)
        return out


def _after(layer: nn.Module | None, x: Tensor) -> Tensor:
    """Through a layer that may not be there.

    `nn.Identity` in its place would lend its name, a norm or a shortcut, to what it passes on.
    """
    return x if layer is None else layer(x)


class Resnet(nn.Module):
    """A first convolution, stages of residual blocks, the mean of each map, a dense layer."""

    def __init__(
        self, shape: tuple[int, int, int], stem: nn.Sequential, stages: nn.Sequential,
        head: nn.Linear,
    ) -> None:  # fmt: skip
        super().__init__()
        self.image_shape = shape
        self.stem = stem
        self.stages = stages
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, ...] with the elements of an image each to [B, n_outputs]."""
        maps: Tensor = self.stages(self.stem(x.reshape(-1, *self.image_shape)))
        out: Tensor = self.head(maps.mean((-2, -1)))
        return out


def resnet(
    *,
    input_shape: tuple[int, ...],
    n_outputs: int,
    channels: Annotated[list[Width], Field(min_length=1, max_length=8)] = [8, 16],  # noqa: B006 (copied)
    blocks: Annotated[int, Field(ge=1, le=64)] = 1,
    batch_norm: bool = True,
) -> Resnet:
    """A residual network.

    Args:
        input_shape: [C, H, W], [H, W], or the pixels of a square image in a row.
        n_outputs: width of the output layer.
        channels: maps of each stage; from the second on, a stage halves height and width.
        blocks: of two convolutions each, in every stage.
        batch_norm: behind each convolution, as in the paper.

    Raises:
        ValueError: inputs that are no images.
    """
    shape = image_shape("resnet", input_shape)
    n_inputs = channels[0]
    stem = [nn.Conv2d(shape[0], n_inputs, 3, padding=1, bias=not batch_norm)]
    norm = [nn.BatchNorm2d(n_inputs)] if batch_norm else []
    stages = []
    for stage, n_maps in enumerate(channels):
        row = []
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            row.append(Block(n_inputs, n_maps, stride, batch_norm=batch_norm))
            n_inputs = n_maps
        stages.append(nn.Sequential(*row))
    return Resnet(
        shape, nn.Sequential(*stem, *norm, nn.ReLU()), nn.Sequential(*stages),
        nn.Linear(n_inputs, n_outputs),
    )  # fmt: skip
