"""Inspections and spaces for tests of the search."""

from typing import Any

from dropt.spec.inspection import Excluded, Inspection, Site
from dropt.spec.job import Search
from dropt.spec.space import Space
from dropt.tuning.space import build_space


def make_site(name: str, role: str = "hidden", **fields: Any) -> Site:
    """A dense site; what a test does not care about has a plausible value."""
    values: dict[str, Any] = {
        "site": name, "role": role, "layer": "Linear(64, 64)", "layer_kind": "dense",
        "kinds": ("element",), "shape": (64,), "depth": 0.5, "recommended": True,
    }  # fmt: skip
    return Site.model_validate(values | fields)


MLP = (make_site(":in", "input"), make_site("layers.1:out"), make_site("layers.3:out", "head"))


def make_inspection(*sites: Site, **fields: Any) -> Inspection:
    """An MLP with an input, a hidden and a head site unless sites are given."""
    values: dict[str, Any] = {
        "fingerprint": "51ab", "parameters": 1000, "sites": sites or MLP,
        "output_layers": ("layers.4",),
        "excluded": (Excluded(site="layers.4:out", reason="output_layer"),),
    }  # fmt: skip
    return Inspection.model_validate(values | fields)


def make_search(**fields: Any) -> Search:
    return Search.model_validate(fields)


def make_space(*sites: Site, **search: Any) -> Space:
    return build_space(make_inspection(*sites), make_search(**search))
