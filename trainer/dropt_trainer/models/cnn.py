"""A convolutional network for small images: convolution, activation, pooling; then dense."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from dropt_trainer.models.images import image_shape

Width = Annotated[int, Field(ge=1, le=4_096)]


class Cnn(nn.Module):
    """Convolutional features and a dense head."""

    def __init__(
        self, shape: tuple[int, int, int], features: nn.Sequential, head: nn.Sequential
    ) -> None:
        super().__init__()
        self.image_shape = shape
        self.features = features
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, ...] with the elements of an image each to [B, n_outputs]."""
        maps: Tensor = self.features(x.reshape(-1, *self.image_shape))
        out: Tensor = self.head(maps.flatten(1))
        return out


def cnn(
    *,
    input_shape: tuple[int, ...],
    n_outputs: int,
    channels: Annotated[list[Width], Field(min_length=1, max_length=8)] = [16, 32],  # noqa: B006 (copied)
    hidden: Annotated[int, Field(ge=0, le=65_536)] = 64,
    batch_norm: bool = False,
    kernel_size: Literal[1, 3, 5, 7, 9, 11] = 3,
) -> Cnn:
    """A convolutional network.

    Args:
        input_shape: [C, H, W], [H, W], or the pixels of a square image in a row.
        n_outputs: width of the output layer.
        channels: maps of each convolution; each is followed by 2 x 2 max-pooling, as long as the
            maps are at least 2 x 2.
        hidden: width of the dense layer behind the convolutions; 0 leaves it out.
        batch_norm: between each convolution and its activation.
        kernel_size: odd, so that maps keep their size in a convolution.

    Raises:
        ValueError: inputs that are no images.
    """
    n_channels, height, width = shape = image_shape("cnn", input_shape)
    modules: list[nn.Module] = []
    for n_maps in channels:
        modules.append(nn.Conv2d(n_channels, n_maps, kernel_size, padding=kernel_size // 2))
        if batch_norm:
            modules.append(nn.BatchNorm2d(n_maps))
        modules.append(nn.ReLU())
        if min(height, width) >= 2:
            modules.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        n_channels = n_maps
    head = _head(n_channels * height * width, hidden, n_outputs)
    return Cnn(shape, nn.Sequential(*modules), head)


def _head(n_inputs: int, hidden: int, n_outputs: int) -> nn.Sequential:
    if hidden == 0:
        return nn.Sequential(nn.Linear(n_inputs, n_outputs))
    return nn.Sequential(nn.Linear(n_inputs, hidden), nn.ReLU(), nn.Linear(hidden, n_outputs))
