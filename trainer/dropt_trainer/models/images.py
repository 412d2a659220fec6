"""What counts as an image."""

import math


def image_shape(model: str, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, height and width of the images in data of this shape.

    Raises:
        ValueError: an example is no image.
    """
    if len(input_shape) == 3:
        return input_shape[0], input_shape[1], input_shape[2]
    if len(input_shape) == 2:
        return 1, input_shape[0], input_shape[1]
    side = math.isqrt(input_shape[0]) if len(input_shape) == 1 else 0
    if side > 1 and side**2 == input_shape[0]:
        return 1, side, side
    raise ValueError(
        f"Model '{model}' needs images: [C, H, W], [H, W] or the pixels of a square image in a "
        f"row; the data has shape {list(input_shape)}. Use model 'mlp' for tables."
    )
