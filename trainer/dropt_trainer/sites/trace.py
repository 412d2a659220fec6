"""One forward of a model, recorded: which module was called on which node of the autograd graph.

The forward runs on a copy, so the model comes back as it was, whatever its code changes in itself.
Two traces are taken: in evaluation, which shows the structure, and in training with a tag in place
of every rate, which shows where the model's own dropout acts.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from dropt_trainer.sites.calling import arguments_of, first_float, primary_output
from dropt_trainer.sites.functions import (
    DROPOUTS,
    RECURRENT,
    RECURRENT_CELLS,
    dropout_arguments,
)
from dropt_trainer.sites.graph import Graph, build_graph
from dropt_trainer.sites.layers import is_weight_layer
from dropt_trainer.sites.opaque import (
    Attention,
    HeadsAttention,
    OpaqueFunction,
    Recurrence,
    run_opaque,
)
from dropt_trainer.sites.ports import SiteError
from dropt_trainer.sites.recurrent import read_call

Inputs = Tensor | dict[str, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
OPAQUE_NODES: Mapping[Callable[..., Any], OpaqueFunction] = {
    **dict.fromkeys((*RECURRENT, *RECURRENT_CELLS), Recurrence),
    F.scaled_dot_product_attention: Attention,
    F.multi_head_attention_forward: HeadsAttention,
}
SET_REQUIRES_GRAD = Tensor.requires_grad.__set__  # type: ignore[attr-defined]  # a descriptor
# What torch and model code raise on inputs that they cannot take.
BROKEN = (
    RuntimeError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError,
    AssertionError,
)  # fmt: skip


@dataclass(frozen=True)
class Attribute:
    """An attribute that may hold a rate."""

    path: str
    name: str
    value: float

    @property
    def site(self) -> str:
        """Name of the site, if it turns out to be one."""
        return f"{self.path}:{self.name}"


@dataclass
class Call:
    """One call of one module.

    `enters` and `leaves` are the nodes of its first float input and output, None where there is
    none that depends on the model's inputs or weights. `clock` counts the calls of weight layers
    that began before; `ended` those that had begun when it ended.
    """

    path: str
    module: nn.Module
    clock: int
    enters: Node | None
    in_shape: tuple[int, ...]
    leaves: Node | None = None
    out_shape: tuple[int, ...] = ()
    ended: int = 0


@dataclass(frozen=True)
class Dropout:
    """One call of a dropout function: by a tagged attribute, or with a rate from elsewhere.

    `node` is the point in the graph where it acts; if the function drops `inside`, the function's
    own node.
    """

    attribute: Attribute | None
    path: str
    function: str
    node: Node | None
    shape: tuple[int, ...]
    clock: int
    inside: bool


@dataclass
class Trace:
    """What one forward showed."""

    graph: Graph
    entries: dict[Node, str]  # the model's float inputs by name; "" for a single tensor
    calls: list[Call]  # in the order of their ends: inner modules before the outer
    dropouts: list[Dropout] = field(default_factory=list)
    integer_input: bool = False
    trainable: int = -1  # the set of nodes that stand for trainable parameters; -1 is all


def trace(
    model: nn.Module,
    inputs: Inputs,
    targets: Tensor,
    loss: Loss,
    *,
    tags: Mapping[float, Attribute] | None = None,
) -> Trace:
    """Record a forward; in evaluation, or with `tags` in training (batch norm in evaluation).

    Raises:
        SiteError: the forward or the loss fails on these rows, or the loss does not depend on the
            model's inputs or weights.
    """
    twin = copy.deepcopy(model)
    frozen = [parameter for parameter in twin.parameters() if not parameter.requires_grad]
    for parameter in twin.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    twin.train(tags is not None)
    for module in twin.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.eval()
    recorder = _Recorder(twin, tags or {})
    devices = {p.device for p in twin.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        found = recorder.run(inputs, targets, loss)
    if frozen:
        found.trainable = _trainable(found.graph, frozen)
    return found


class _Recorder(TorchFunctionMode):
    """Hooks on all modules, and the function mode that sees dropout."""

    def __init__(self, model: nn.Module, tags: Mapping[float, Attribute]) -> None:
        super().__init__()
        self.model = model
        self.tags = tags
        self.paths = {module: path for path, module in model.named_modules()}
        self.weight_layers = {module for module in model.modules() if is_weight_layer(module)}
        self.clock = 0
        self.stack: list[Call] = []
        self.calls: list[Call] = []
        self.dropouts: list[Dropout] = []
        for tag, attribute in tags.items():
            setattr(model.get_submodule(attribute.path), attribute.name, tag)
        for module in model.modules():
            module.register_forward_pre_hook(self.enter, with_kwargs=True)
            module.register_forward_hook(self.leave)

    def run(self, inputs: Inputs, targets: Tensor, loss: Loss) -> Trace:
        """The forward, and the graph behind the loss."""
        traced, entries = _traceable(inputs)
        output = primary_output(self.call(traced))
        try:
            value = loss(output, targets).sum()
        except BROKEN as error:
            raise SiteError(
                f"The loss fails on the model's output, {_shapes(output)}, and the targets, "
                f"{_shapes(targets)}: {_first_line(error)}. Change the outputs or the loss."
            ) from error
        if value.grad_fn is None:
            raise SiteError("The loss does not depend on the model's inputs or weights.")
        tensors = inputs.values() if isinstance(inputs, dict) else [inputs]
        has_integers = any(  # a mask is Boolean
            not (t.is_floating_point() or t.dtype == torch.bool) for t in tensors
        )
        graph = build_graph(value.grad_fn)
        return Trace(graph, entries, self.calls, self.dropouts, integer_input=has_integers)

    def call(self, traced: Inputs) -> object:
        try:
            with self:
                args, kwargs = arguments_of(self.model, traced)
                return self.model(*args, **kwargs)
        except SiteError:
            raise
        except BROKEN as error:
            where = f" in module '{self.stack[-1].path}'" if self.stack else ""
            raise SiteError(
                f"The model's forward fails on inputs of shape {_shapes(traced)}{where}: "
                f"{_first_line(error)}. Change the model or the data."
            ) from error

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        tensor = first_float((*args, *kwargs.values()))
        node, shape = (None, ()) if tensor is None else (tensor.grad_fn, tuple(tensor.shape))
        self.stack.append(Call(self.paths[module], module, self.clock, node, shape))
        self.clock += module in self.weight_layers

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        call, tensor = self.stack.pop(), first_float(output)
        call.ended = self.clock
        if tensor is not None:
            call.leaves, call.out_shape = tensor.grad_fn, tuple(tensor.shape)
        self.calls.append(call)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in DROPOUTS:
            return self.see_dropout(func, args, kwargs)
        if func == SET_REQUIRES_GRAD and args[0].grad_fn is not None:
            return None  # some models ask for gradients of their input: here it has them
        if func in OPAQUE_NODES:
            returned = run_opaque(OPAQUE_NODES[func], func, args, kwargs)
            self.see_inside(func, args, kwargs, returned)
            return returned
        return func(*args, **kwargs)

    def see_inside(
        self, func: Callable[..., Any], args: Any, kwargs: Any, returned: object
    ) -> None:
        """Note the tags that arrived in a function which drops inside."""
        if func in RECURRENT and read_call(func, args, kwargs).n_layers == 1:
            return  # torch drops between layers alone
        output = first_float(returned)
        mark = None if output is None else output.grad_fn
        node = None if mark is None else mark.next_functions[0][0]
        tagged = [value for value in (*args, *kwargs.values()) if isinstance(value, float)]
        for rate in self.tags.keys() & set(tagged):
            shape = _shape_inside(func, args, kwargs, output)
            self.note(func, self.tags[rate], node, shape, inside=True)

    def see_dropout(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Tensor:
        """Leave a mark in the graph in place of dropout; nothing is dropped."""
        x, rate, training = dropout_arguments(args, kwargs)
        if not training or rate == 0:
            return x
        marked: Tensor = x.clone()
        shape = tuple(marked.shape)
        self.note(func, self.tags.get(rate), marked.grad_fn, shape, inside=False)
        return marked

    def note(
        self,
        func: Callable[..., Any],
        attribute: Attribute | None,
        node: Node | None,
        shape: tuple[int, ...],
        *,
        inside: bool,
    ) -> None:
        path = self.stack[-1].path if self.stack else ""
        name = func.__name__
        self.dropouts.append(Dropout(attribute, path, name, node, shape, self.clock, inside))


def _traceable(inputs: Inputs) -> tuple[Inputs, dict[Node, str]]:
    """The inputs with a node each; a model may change them in place, so they are no leaves."""
    named = inputs if isinstance(inputs, dict) else {"": inputs}
    traced, entries = {}, {}
    for name, tensor in named.items():
        traced[name] = tensor
        if tensor.is_floating_point():
            traced[name] = tensor.detach().requires_grad_().clone()
            node = traced[name].grad_fn
            assert node is not None, "a clone of a leaf has a node"
            entries[node] = name
    return (traced if isinstance(inputs, dict) else traced[""]), entries


def _shape_inside(
    func: Callable[..., Any], args: Any, kwargs: Any, output: Tensor | None
) -> tuple[int, ...]:
    """Shape of what drops inside: the output of a recurrent layer, or attention's weights."""
    if func in RECURRENT or output is None:
        return () if output is None else tuple(output.shape)
    query, key = (args[i] if len(args) > i else kwargs[n] for i, n in enumerate(("query", "key")))
    if func is F.scaled_dot_product_attention:
        return (*query.shape[:-1], key.shape[-2])
    n_heads = args[4] if len(args) > 4 else kwargs["num_heads"]
    *batch, _ = query.shape[1:]  # [L, B, E], or [L, E]
    return (*batch, n_heads, len(query), len(key))


def _trainable(graph: Graph, frozen: list[nn.Parameter]) -> int:
    """The nodes where gradients arrive at parameters that are not frozen."""
    ids = {id(parameter) for parameter in frozen}
    variables = ((node, getattr(node, "variable", None)) for node in graph.index)
    return graph.bits(n for n, v in variables if isinstance(v, nn.Parameter) and id(v) not in ids)


def _shapes(value: Tensor | Inputs) -> str:
    """Shapes for people: [4, 20], or {"x": [4, 20]}."""
    if isinstance(value, Tensor):
        return f"{list(value.shape)}"
    return "{" + ", ".join(f'"{name}": {list(t.shape)}' for name, t in value.items()) + "}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300].rstrip(".")
