"""Three noisy rings in the plane, lifted into more dimensions that say nothing."""

import math

import torch

N_ROWS, N_CLASSES, N_IDLE = 1500, 3, 6


def rings() -> dict[str, object]:
    """Rows with what is to be said of them; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(N_ROWS) % N_CLASSES
    angle = 2 * math.pi * torch.rand(N_ROWS, generator=generator)
    radius = 1 + label + 0.35 * torch.randn(N_ROWS, generator=generator)
    plane = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    idle = torch.randn(N_ROWS, N_IDLE, generator=generator)
    return {
        "x": torch.cat([plane, idle], dim=1),
        "y": label,
        "class_names": ["inner", "middle", "outer"],
        "standardize": True,
        "licence": "CC0-1.0",
        "source": "drawn at random by dropt_example",
    }
