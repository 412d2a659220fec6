"""Which attributes of a model may be rates: each gets a tag that is watched for in a forward."""

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from dropt_trainer.sites.ports import tag_of
from dropt_trainer.sites.trace import Attribute


def tag_attributes(model: nn.Module) -> dict[float, Attribute]:
    """A tag for every attribute that may be a rate: `p` of a Dropout, any name with `drop` in it.

    No list of names decides: an attribute is a rate if its tag arrives in a dropout function.
    """
    found = [
        Attribute(path, name, float(value))
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if _may_be_rate(module, name, value)
    ]
    return {tag_of(number): attribute for number, attribute in enumerate(found)}


def _may_be_rate(module: nn.Module, name: str, value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        return False
    return "drop" in name.lower() or (name == "p" and isinstance(module, _DropoutNd))
