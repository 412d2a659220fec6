"""The function mode around a forward: a tag that arrives in a dropout function becomes its site.

It acts on a call only if a tag arrives or, under vmap, where torch gives a wrong gradient.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dropt_trainer.sites.ports import SiteError, apply_columns, instruments_of

# All take (input, rate, training, ...) in this order, under these names.
DROPOUTS = frozenset({
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout,
    torch.dropout, torch.dropout_, torch.feature_dropout, torch.feature_dropout_,
    torch.alpha_dropout, torch.alpha_dropout_, torch.feature_alpha_dropout,
    torch.feature_alpha_dropout_,
})  # fmt: skip
# Functions that drop inside, where no site can act yet.
OPAQUE = frozenset({
    F.scaled_dot_product_attention, F.multi_head_attention_forward,
    torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu,
})  # fmt: skip


class SiteMode(TorchFunctionMode):
    """Active during one forward of an instrumented model; a new one is needed for the next."""

    def __init__(self, root: nn.Module, *, vmapped: bool) -> None:
        super().__init__()
        self.root = root
        self.vmapped = vmapped
        self.tags = instruments_of(root).tags
        self.n_calls: dict[float, int] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in DROPOUTS:
            x, rate, training = dropout_arguments(args, kwargs)
            if rate in self.tags:
                return self.drop(x, rate) if training else x
        elif func in OPAQUE:
            self.refuse_tags(func, args, kwargs)
        elif func is F.embedding and self.vmapped:
            return embed_in_pack(*args, **kwargs)
        return func(*args, **kwargs)

    def drop(self, x: Tensor, tag: float) -> Tensor:
        """The columns of a tag, with the next call's masks."""
        call = self.n_calls.get(tag, 0)
        self.n_calls[tag] = call + 1
        return apply_columns(self.root, self.tags[tag], x, call)

    def refuse_tags(self, func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> None:
        """SiteError if a site's rate arrives where nothing would apply it."""
        for value in (*args, *kwargs.values()):
            if isinstance(value, float) and value in self.tags:
                site = instruments_of(self.root).columns[self.tags[value][0]].site
                raise SiteError(f"{site}: dropout inside {func.__name__} is not supported yet.")


def dropout_arguments(args: Any, kwargs: Mapping[str, Any]) -> tuple[Tensor, float, bool]:
    """Input, rate and training flag of a call of one of DROPOUTS."""
    x = args[0] if args else kwargs["input"]
    rate = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
    training = args[2] if len(args) > 2 else kwargs.get("training", kwargs.get("train", True))
    return x, rate, training


def embed_in_pack(
    x: Tensor, weight: Tensor, padding_idx: int | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    """F.embedding, whose padding row gets no gradient in any slot.

    torch's batching rule shields the padding row of the first slot alone (seen in torch 2.13).
    """
    out = F.embedding(x, weight, None, *args, **kwargs)
    if padding_idx is None:
        return out
    is_padding = (x == padding_idx % weight.shape[0]).unsqueeze(-1)
    return torch.where(is_padding, out.detach(), out)
