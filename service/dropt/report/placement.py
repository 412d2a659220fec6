"""Where dropout acts in a model: its sites in order, with what was refused and taken out."""

from collections.abc import Mapping, Sequence

from dropt.spec.phrases import REASONS, phrase
from dropt.spec.report import Bounds, PlacedSite, Where
from dropt.spec.results import BestRead, Configuration, Equivalent
from dropt.spec.space import Space

WITH = "with"
OUTPUT = "output_layer"


def where_of(
    best: BestRead, space: Space, ties: Sequence[Equivalent], *, tested: bool
) -> Where | None:
    """The placement of the arm `with`, or of the recommended arm when `with` has none."""
    found = dropout_of(best)
    ranges = _ranges(ties) if found.arm == WITH else {}
    removed = {
        site: removal.seeds for removal in best.simplified if removal.removed
        for site in removal.sites
    }  # fmt: skip
    if found.arm != WITH:
        removed = {}
    placed = [_placed(one.site, found, space, ranges, removed) for one in space.sites]
    sites = [site for site in placed if site is not None]
    return Where(
        arm=found.arm,
        tested=tested,
        recommended=found.arm == best.recommended.arm,
        sites=(*sites, *_refused(space)),
    )


def dropout_of(best: BestRead) -> Configuration:
    """The configuration of the arm `with`; the recommended one when there is none."""
    every = (best.recommended, *best.alternatives)
    return next((one for one in every if one.arm == WITH), best.recommended)


def _ranges(ties: Sequence[Equivalent]) -> dict[str, Bounds]:
    """Site to the lowest and the highest rate among the configurations that are alike."""
    rates: dict[str, list[float]] = {}
    for tie in ties:
        for site in tie.sites:
            rates.setdefault(site.site, []).append(site.rate)
    return {site: (min(each), max(each)) for site, each in rates.items() if len(each) > 1}


def _placed(
    name: str, found: Configuration, space: Space, ranges: Mapping[str, Bounds],
    removed: Mapping[str, int],
) -> PlacedSite | None:  # fmt: skip
    """A site as the configuration has it; None for one that was not searched."""
    placed = next((one for one in found.sites if one.site == name), None)
    if placed is None:
        return None
    site = next(one for one in space.sites if one.site == name)
    reason = None
    if name in removed:
        reason = f"taken out: no harm could be measured on {removed[name]} fresh seeds"
    return PlacedSite(
        site=name,
        layer=placed.layer,
        kind=placed.kind,
        rate=placed.rate,
        schedule=placed.schedule,
        mark="taken_out" if name in removed else "site",
        same_within_noise=ranges.get(name),
        batch_norm=site.batch_norm != "none",
        reason=reason,
    )


def _refused(space: Space) -> tuple[PlacedSite, ...]:
    """What never has dropout, the output layers last."""
    ordered = sorted(space.excluded, key=lambda one: one.reason == OUTPUT)
    return tuple(
        PlacedSite(
            site=one.site,
            layer="output" if one.reason == OUTPUT else one.site.partition(":")[0],
            mark="output" if one.reason == OUTPUT else "refused",
            reason=f"never dropped: {phrase(one.reason, REASONS)}",
        )
        for one in ordered
    )
