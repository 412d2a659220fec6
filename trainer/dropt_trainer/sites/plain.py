"""Dropout by torch's own random numbers, for a model that leaves dropt: what a snippet would do.

No buffers and no steps: such hooks work under torch.compile, in DDP, in half precision, and when
a part of the model is called alone.
"""

import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils.rnn import PackedSequence

from dropt.spec.inspection import Kind
from dropt_trainer.dropout.kinds import mask_shape
from dropt_trainer.sites.hooks import AtInput, AtOutput
from dropt_trainer.sites.ports import SiteError


def own_kind(module: nn.Module) -> Kind | None:
    """How a module's own code drops by its rate; None for a way that no kind has.

    A user's own attribute is taken for the rate of an F.dropout.
    """
    if isinstance(module, nn.Dropout1d | nn.Dropout2d | nn.Dropout3d):
        return "channel"
    if isinstance(module, nn.AlphaDropout):
        return "alpha"
    return None if isinstance(module, nn.FeatureAlphaDropout) else "element"


def own_rates(model: nn.Module) -> dict[str, float]:
    """The rates that torch's own modules hold, by site."""
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, _DropoutNd):
            found[f"{path}:p"] = float(module.p)
        elif isinstance(module, nn.RNNBase | nn.MultiheadAttention):
            found[f"{path}:dropout"] = float(module.dropout)
    return found


class PlainDropout:
    """Dropout of one kind at one place, in training alone, at a rate that may be set any time.

    Raises:
        SiteError: when called with something else than a floating-point tensor.
    """

    def __init__(self, site: str, kind: Kind, *, batch_dim: int = 0, time_dim: int = 1) -> None:
        self.site, self.kind, self.rate = site, kind, 0.0
        self.batch_dim, self.time_dim = batch_dim, time_dim

    def drop(self, x: object) -> object:
        """The same with units dropped; the data of a PackedSequence."""
        if isinstance(x, PackedSequence):
            return x._replace(data=self._drop_packed(x))
        if not isinstance(x, Tensor) or not x.is_floating_point():
            what = f"a {x.dtype} tensor" if isinstance(x, Tensor) else type(x).__name__
            raise SiteError(f"{self.site}: dropout needs a floating-point tensor, not {what}.")
        if self.kind == "element":
            return F.dropout(x, self.rate)
        if self.kind == "alpha":
            return F.alpha_dropout(x, self.rate, training=True)
        shape = mask_shape(x, self.kind, batch_dim=self.batch_dim, time_dim=self.time_dim)
        return x * F.dropout(x.new_ones(shape), self.rate)

    def _drop_packed(self, x: PackedSequence) -> Tensor:
        """Rows are time steps one below the other, each with the examples that last so long."""
        if self.kind == "alpha":
            return F.alpha_dropout(x.data, self.rate, training=True)
        if self.kind == "element":
            return F.dropout(x.data, self.rate)
        if self.kind == "channel":
            raise SiteError(f"{self.site}: kind 'channel' does not fit a PackedSequence.")
        if self.kind == "token":
            return x.data * F.dropout(x.data.new_ones(len(x.data), 1), self.rate)
        sizes = x.batch_sizes.tolist()
        mask = x.data.new_ones(sizes[0], x.data.shape[1] if self.kind == "locked" else 1)
        mask = F.dropout(mask, self.rate)
        rows = [row for size in sizes for row in range(size)]
        return x.data * mask[rows]


class PlainInput(PlainDropout, AtInput):
    """Dropout of the first argument."""


class PlainOutput(PlainDropout, AtOutput):
    """Dropout of the output, or of the first of several."""
