"""A small residual network with gates, as somebody might have written it before dropt."""

from typing import Literal

from torch import Tensor, nn


class GatedBlock(nn.Module):
    """A residual block whose two halves multiply (gated linear units, Dauphin et al. 2017)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, width] to [B, width]."""
        value, gate = self.up(self.norm(x)).chunk(2, dim=-1)
        out: Tensor = x + self.down(value * gate.sigmoid())
        return out


class GatedNet(nn.Module):
    """A stem, blocks, and a head; returns a dict, as many models do."""

    def __init__(self, n_inputs: int, n_outputs: int, width: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Linear(n_inputs, width)
        self.blocks = nn.ModuleList(GatedBlock(width) for _ in range(depth))
        self.head = nn.Linear(width, n_outputs)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map [B, n_inputs] to logits [B, n_outputs]."""
        hidden = self.stem(x)
        for block in self.blocks:
            hidden = block(hidden)
        return {"logits": self.head(hidden), "hidden": hidden}


def gated_net(
    *,
    input_shape: tuple[int, ...],
    n_outputs: int,
    width: int = 32,
    depth: Literal[1, 2, 3, 4] = 2,
) -> GatedNet:
    """The factory: `input_shape` and `n_outputs` come from the data, the rest from the job."""
    return GatedNet(input_shape[0], n_outputs, width, depth)
