"""The function mode around a forward: a tag that arrives in a dropout function becomes its site.

It acts on a call only if a tag arrives or, under vmap, where torch has no batching rule or a wrong
one.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dropt_trainer.sites.attention import attend, multi_head_attention_body
from dropt_trainer.sites.ports import RATES, Layout, SiteError, apply_columns, instruments_of
from dropt_trainer.sites.recurrent import (
    Between,
    RecurrentCall,
    read_call,
    run_cell,
    run_cells,
    run_natively,
)

Function = Callable[..., Any]
# All take (input, rate, training, ...) in this order, under these names.
DROPOUTS: frozenset[Function] = frozenset({
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout,
    torch.dropout, torch.dropout_, torch.feature_dropout, torch.feature_dropout_,
    torch.alpha_dropout, torch.alpha_dropout_, torch.feature_alpha_dropout,
    torch.feature_alpha_dropout_,
})  # fmt: skip
DROPOUTS_IN_PLACE = frozenset({
    torch.dropout_, torch.feature_dropout_, torch.alpha_dropout_, torch.feature_alpha_dropout_,
})  # fmt: skip
RECURRENT: frozenset[Function] = frozenset({torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu})
RECURRENT_CELLS: Mapping[Function, str] = {
    torch.lstm_cell: "lstm", torch.gru_cell: "gru", torch.rnn_tanh_cell: "rnn_tanh",
    torch.rnn_relu_cell: "rnn_relu",
}  # fmt: skip
# Functions that drop inside.
OPAQUE: frozenset[Function] = frozenset(
    {F.scaled_dot_product_attention, F.multi_head_attention_forward, *RECURRENT}
)
ATTENTION_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
RATE_OF_HEADS, TRAINING_OF_HEADS = 10, 13  # places in multi_head_attention_forward


class SiteMode(TorchFunctionMode):
    """Active during one forward of an instrumented model; a new one is needed for the next."""

    def __init__(self, root: nn.Module, *, vmapped: bool) -> None:
        super().__init__()
        self.root = root
        self.vmapped = vmapped
        self.tags = instruments_of(root).tags
        self.n_calls: dict[float, int] = {}
        self.rates: list[float] | None = None

    def __torch_function__(
        self, func: Function, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # Dynamo finds a method by identity, not in a dictionary.
        handler = _unflatten if func is Tensor.unflatten else HANDLERS.get(func)
        return func(*args, **kwargs) if handler is None else handler(self, func, args, kwargs)

    def drop(self, x: Tensor, tag: float, layout: Layout | None = None) -> Tensor:
        """The columns of a tag, with the next call's masks."""
        call = self.n_calls.get(tag, 0)
        self.n_calls[tag] = call + 1
        return apply_columns(self.root, self.tags[tag].columns, x, call, layout)

    def acts(self, rate: float) -> bool:
        """Whether a rate is a tag whose module is in training."""
        tagged = self.tags.get(rate)
        return tagged is not None and tagged.module.training

    def is_live(self, rate: float) -> bool:
        """Whether a site may drop here, so that torch's own function will not do.

        A single trial at rate 0 takes torch's own, bit for bit. In a pack some slot may drop, and
        a compiled graph serves all rates. Elsewhere the rates are read from the device, once for
        each forward.
        """
        if not self.acts(rate):
            return False
        if self.vmapped or torch.compiler.is_compiling():
            return True
        if self.rates is None:
            self.rates = self.root.get_buffer(RATES).tolist()
        return any(self.rates[column] > 0 for column in self.tags[rate].columns)

    def refuse_untagged(self, func: Function, rate: float) -> None:
        """SiteError for a rate above 0 that is no site's: in a pack nobody accounts for it."""
        if rate > 0 and rate not in self.tags:
            raise SiteError(
                f"{func.__name__} drops at rate {rate}, which is no site's, in a pack."
            )


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


def linear_in_pack(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear as one product of matrices and a sum.

    torch's batching rule multiplies the bias by 1, and repeats the weight for each example where
    there is no bias (seen in torch 2.13).
    """
    out = x.reshape(-1, x.shape[-1]) @ weight.mT
    if bias is not None:
        out = out + bias.to(out.dtype)  # which autocast has lowered
    return out.view(*x.shape[:-1], weight.shape[0])


def _dropout(mode: SiteMode, func: Function, args: Any, kwargs: Any) -> Any:
    x, rate, training = dropout_arguments(args, kwargs)
    if rate not in mode.tags:
        return func(*args, **kwargs)
    if not (training and mode.acts(rate)):
        return x
    dropped = mode.drop(x, rate)
    in_place = func in DROPOUTS_IN_PLACE or kwargs.get("inplace", len(args) > 3 and args[3])
    return x.copy_(dropped) if in_place else dropped


def _attention(mode: SiteMode, func: Function, args: Any, kwargs: Any) -> Any:
    given = {**dict(zip(ATTENTION_ARGUMENTS, args, strict=False)), **kwargs}
    rate = given.pop("dropout_p", 0.0)
    is_live = mode.is_live(rate)
    if not (is_live or mode.vmapped):
        return func(**given, dropout_p=0.0 if rate in mode.tags else rate)
    if not is_live:
        mode.refuse_untagged(func, rate)
    return attend(**given, drop=(lambda p: mode.drop(p, rate)) if is_live else None)


def _attention_of_heads(mode: SiteMode, func: Function, args: Any, kwargs: Any) -> Any:
    """The whole of `nn.MultiheadAttention`; its body calls functions that the mode handles."""
    rate = args[RATE_OF_HEADS] if len(args) > RATE_OF_HEADS else kwargs["dropout_p"]
    in_training = (
        args[TRAINING_OF_HEADS] if len(args) > TRAINING_OF_HEADS else kwargs.get("training", True)
    )
    if mode.vmapped or (in_training and mode.is_live(rate)):
        with mode:
            return multi_head_attention_body(*args, **kwargs)
    if rate not in mode.tags:
        return func(*args, **kwargs)
    if len(args) > RATE_OF_HEADS:
        return func(*args[:RATE_OF_HEADS], 0.0, *args[RATE_OF_HEADS + 1 :], **kwargs)
    return func(*args, **{**kwargs, "dropout_p": 0.0})


def _recurrent(mode: SiteMode, func: Function, args: Any, kwargs: Any) -> Any:
    call = read_call(func, args, kwargs)
    between = _between_layers(mode, call)
    if mode.vmapped:
        if call.batch_sizes is not None:
            raise SiteError(f"{func.__name__} on a PackedSequence cannot run in a pack.")
        if call.training and call.n_layers > 1:
            mode.refuse_untagged(func, call.rate)
        return run_cells(call, between)
    if call.rate not in mode.tags:
        return func(*args, **kwargs)
    return run_natively(call, between)


def _between_layers(mode: SiteMode, call: RecurrentCall) -> Between | None:
    """The site between the layers of a call, None where nothing drops."""
    if not (call.training and call.n_layers > 1 and mode.is_live(call.rate)):
        return None
    batch_dim = 0 if call.batch_first else 1
    layout = Layout(batch_dim, 1 - batch_dim, call.batch_sizes)
    return lambda x: mode.drop(x, call.rate, layout)


def _recurrent_cell(mode: SiteMode, func: Function, args: Any, kwargs: Any) -> Any:
    if mode.vmapped:
        return run_cell(RECURRENT_CELLS[func], *args, **kwargs)
    return func(*args, **kwargs)


def _embedding(mode: SiteMode, func: Function, args: Any, kwargs: Any) -> Any:
    return embed_in_pack(*args, **kwargs) if mode.vmapped else func(*args, **kwargs)


def _linear(mode: SiteMode, func: Function, args: Any, kwargs: Any) -> Any:
    return linear_in_pack(*args, **kwargs) if mode.vmapped else func(*args, **kwargs)


def _unflatten(mode: SiteMode, func: Function, args: Any, kwargs: Any) -> Any:
    """As a reshape, because dynamo cannot trace torch's own under a mode."""
    if kwargs or not isinstance(args[1], int):
        return func(*args, **kwargs)
    x, dim, sizes = args
    dim %= x.ndim
    return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


def _refuse_nesting(mode: SiteMode, func: Function, args: Any, kwargs: Any) -> bool:
    """Whether a mask suits a nested tensor: only the fast path, which a mode turns off, asks."""
    return False


Handler = Callable[[SiteMode, Function, Any, Any], Any]
HANDLERS: Mapping[Function, Handler] = {
    **dict.fromkeys(DROPOUTS, _dropout),
    **dict.fromkeys(RECURRENT, _recurrent),
    **dict.fromkeys(RECURRENT_CELLS, _recurrent_cell),
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _attention_of_heads,
    F.embedding: _embedding,
    F.linear: _linear,
    torch._nested_tensor_from_mask_left_aligned: _refuse_nesting,
}
