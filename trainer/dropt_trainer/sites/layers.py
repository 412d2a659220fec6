"""What modules and nodes of the autograd graph are: weight layers, norms, views.

Modules are known by type, functions by the name of their node: functional code is seen too.
"""

from torch import nn
from torch.autograd.graph import Node
from torch.nn.modules.batchnorm import _NormBase

RECURRENT = (nn.RNNBase, nn.RNNCellBase)
OPAQUE_MODULES = (*RECURRENT, nn.MultiheadAttention)  # weight layers with many parts
NORM_CLASSES = (
    _NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.RMSNorm,
)  # fmt: skip
BATCH_NORM_CLASSES = (nn.modules.batchnorm._BatchNorm,)
BATCH_NORM_NODES = ("NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm", "BatchNorm")
NORM_NODES = (*BATCH_NORM_NODES, "NativeLayerNorm", "NativeGroupNorm", "FusedRmsNorm", "RmsNorm")
MIXING_NODES = (
    "Addmm", "Mm", "Mv", "Bmm", "Baddbmm", "Addbmm", "Linear", "Mkldnn", "Convolution",
    "Embedding", "Recurrence", "Attention", "HeadsAttention", "Trilinear",
)  # fmt: skip
PRODUCT_NODES = ("Bmm", "Baddbmm", "Mm")
VIEW_NODES = (
    "View", "UnsafeView", "ReshapeAlias", "Transpose", "Permute", "Unsqueeze", "Squeeze",
    "TBackward", "Clone", "Alias", "Expand", "Slice", "Select", "AsStrided", "ToCopy",
    "PackPadded",
)  # fmt: skip
ADD_NODES = ("AddBackward", "SubBackward")
SELU_SCALE = 1.0507009873554805


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises; by class or by a name that says so."""
    return isinstance(module, NORM_CLASSES) or type(module).__name__.endswith("Norm")


def is_weight_layer(module: nn.Module) -> bool:
    """Whether a module mixes its inputs by weights of its own: what sites stand in front of."""
    if isinstance(module, OPAQUE_MODULES):
        return True
    if is_norm(module):
        return False
    children = [name for name, _ in module.named_children() if name != "parametrizations"]
    return not children and any(p.ndim >= 2 for p in module.parameters())


def is_convolution(module: nn.Module) -> bool:
    """Whether a module is one of torch's convolutions."""
    return isinstance(module, nn.modules.conv._ConvNd)


def is_recurrent(module: nn.Module) -> bool:
    """Whether a module is a recurrent layer of torch or a cell of one."""
    return isinstance(module, RECURRENT)


def is_embedding(module: nn.Module) -> bool:
    """Whether a module looks rows up by index."""
    return isinstance(module, nn.Embedding | nn.EmbeddingBag)


def node_is(node: Node, prefixes: tuple[str, ...]) -> bool:
    """Whether a node's name begins with one of the prefixes."""
    return node.name().lstrip("_").startswith(prefixes)


def is_selu(node: Node) -> bool:
    """Whether a node is a SELU, which torch records as an ELU of a certain scale."""
    scale = getattr(node, "_saved_scale", None)
    return node_is(node, ("Elu",)) and scale is not None and abs(scale - SELU_SCALE) < 1e-6


def describe_module(module: nn.Module) -> str:
    """A module in few words, for people: `Linear(64, 128)`."""
    kind = type(module).__name__
    if isinstance(module, nn.Linear):
        return f"{kind}({module.in_features}, {module.out_features})"
    if isinstance(module, nn.modules.conv._ConvNd):
        size = "x".join(str(n) for n in module.kernel_size)
        return f"{kind}({module.in_channels}, {module.out_channels}, {size})"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return f"{kind}({module.num_embeddings}, {module.embedding_dim})"
    return kind


def describe_node(node: Node) -> str:
    """A function in one word, from its node's name: `relu`."""
    if is_selu(node):
        return "selu"
    return node.name().rpartition("::")[2].partition("Backward")[0].lower()
