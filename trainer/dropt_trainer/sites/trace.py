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
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from dropt_trainer.sites.functions import DROPOUTS, OPAQUE, dropout_arguments
from dropt_trainer.sites.graph import Graph, build_graph
from dropt_trainer.sites.layers import is_weight_layer
from dropt_trainer.sites.ports import SiteError

Inputs = Tensor | dict[str, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
PRIMARY_OUTPUTS = ("loss", "logits", "last_hidden_state")  # of a dict, in this order


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

    `node` is the point in the graph where it acts (the input's own where it only passed through),
    `inside` the function's name if it drops inside and no site can act there.
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
        SiteError: the loss does not depend on the model's inputs or weights.
    """
    twin = copy.deepcopy(model)
    for parameter in twin.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    twin.train(tags is not None)
    for module in twin.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.eval()
    recorder = _Recorder(twin, tags or {})
    devices = {p.device for p in twin.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        return recorder.run(inputs, targets, loss)


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
        with self:
            output = self.model(traced)
        value = loss(_primary(output), targets).sum()
        if value.grad_fn is None:
            raise SiteError("The loss does not depend on the model's inputs or weights.")
        tensors = inputs.values() if isinstance(inputs, dict) else [inputs]
        has_integers = any(not tensor.is_floating_point() for tensor in tensors)
        graph = build_graph(value.grad_fn)
        return Trace(graph, entries, self.calls, self.dropouts, integer_input=has_integers)

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        tensor = _first_float((*args, *kwargs.values()))
        node, shape = (None, ()) if tensor is None else (tensor.grad_fn, tuple(tensor.shape))
        self.stack.append(Call(self.paths[module], module, self.clock, node, shape))
        self.clock += module in self.weight_layers

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        call, tensor = self.stack.pop(), _first_float(output)
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
        if func in OPAQUE:
            tagged = [v for v in (*args, *kwargs.values()) if isinstance(v, float)]
            for rate in self.tags.keys() & set(tagged):
                self.note(func, self.tags[rate], _first_float(args), inside=True)
        return func(*args, **kwargs)

    def see_dropout(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Tensor:
        """Leave a mark in the graph in place of dropout; nothing is dropped."""
        x, rate, training = dropout_arguments(args, kwargs)
        if not training or rate == 0:
            return x
        marked: Tensor = x.clone()
        self.note(func, self.tags.get(rate), marked, inside=False)
        return marked

    def note(
        self,
        func: Callable[..., Any],
        attribute: Attribute | None,
        x: Tensor | None,
        *,
        inside: bool,
    ) -> None:
        path = self.stack[-1].path if self.stack else ""
        node, shape = (None, ()) if x is None else (x.grad_fn, tuple(x.shape))
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


def _primary(output: object) -> Tensor:
    """The tensor of a model's output that the loss is about."""
    if isinstance(output, Mapping):
        for key in PRIMARY_OUTPUTS:
            value = output.get(key)
            if isinstance(value, Tensor):
                return value
    tensor = _first_float(output)
    if tensor is None:
        raise SiteError(f"The model returns no float tensor, but {type(output).__name__}.")
    return tensor


def _first_float(value: object) -> Tensor | None:
    """The first float tensor in a nest of tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else None
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        found = (_first_float(item) for item in value)
        return next((tensor for tensor in found if tensor is not None), None)
    return None
