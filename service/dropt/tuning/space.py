"""The search space of a job: which sites are searched, over which rates, in which groups."""

import difflib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import floor
from typing import Final, NamedTuple

from dropt.errors import MAX_SHOWN, FieldError, InvalidRequest
from dropt.spec.inspection import Inspection, Kind, Role, Site
from dropt.spec.job import Search
from dropt.spec.space import Group, SiteChoice, Space

NUISANCES: Final = ("lr", "weight_decay", "l1", "l2")
MAX_GROUPS_BY_SITE: Final = 6  # up to here each site has a rate of its own
MAX_RATE_BEFORE_BATCH_NORM: Final = 0.2
ZERO_SHARE: Final = 0.3  # of all codes; with more, useful groups are switched off
STEPS: Final = (0.05, 0.01, 0.005, 0.001)  # each divides 0.2, so the usual rate is on the grid
DIGITS: Final = 6  # of a rate after the point: 0.1 + 4 * 0.05 reads 0.3


class Prior(NamedTuple):
    """Where the rate of a role is searched when the site is on, and where it starts."""

    low: float
    high: float
    start: float


_NARROW = Prior(0.05, 0.3, 0.1)
_RECURRENT = Prior(0.05, 0.6, 0.3)
_PATH = Prior(0.05, 0.5, 0.1)
PRIORS: Final[dict[Role, Prior]] = {
    "head": Prior(0.05, 0.7, 0.2),
    "hidden": Prior(0.05, 0.7, 0.2),
    "input": Prior(0.05, 0.3, 0.2),
    "conv": _NARROW,
    "branch": _NARROW,  # of kind path: _PATH
    "embed": _NARROW,
    "rnn_in": _RECURRENT,
    "rnn_out": _RECURRENT,
    "rnn_inter": _RECURRENT,
    "attn_prob": _NARROW,
    "attn_context": _NARROW,
}


def build_space(inspection: Inspection, search: Search) -> Space:
    """The space of a job over the sites that were found.

    Without a choice of the user the recommended sites are searched, with one those that it
    matches; the last choice that matches a site holds. Of `kinds`, the first that the site
    allows is used. An output layer is never searched: a pattern may cover it beside others.

    Raises:
        InvalidRequest: a choice matches nothing, an output layer or no allowed kind; sites of a
            group have no rate in common; a placement of `start_from` names what is no site; or
            nothing is left to search.
    """
    errors: list[FieldError] = []
    searched = _searched_sites(inspection, search, errors)
    errors += _placement_errors(inspection, search)
    if not searched and not errors:
        errors.append(_nothing_to_search(inspection))
    groups = [] if errors else _groups(searched, search, errors)
    if errors:
        raise InvalidRequest("; ".join(error.message for error in errors), errors=errors)
    return Space(
        fingerprint=inspection.fingerprint,
        sites=inspection.sites,
        excluded=inspection.excluded,
        groups=tuple(groups),
        also={name: getattr(search.also, name) for name in NUISANCES},
    )


@dataclass(frozen=True)
class _Searched:
    """A site with what is searched there."""

    site: Site
    kind: Kind
    low: float
    high: float
    start: float
    always_on: bool


def _searched_sites(
    inspection: Inspection, search: Search, errors: list[FieldError]
) -> list[_Searched]:
    """The sites to search in the order of the model; what is wrong goes into `errors`."""
    if not search.sites:
        return [_by_default(site) for site in inspection.sites if site.recommended]
    found: dict[str, _Searched] = {}
    for index, choice in enumerate(search.sites):
        matched = [site for site in inspection.sites if fnmatchcase(site.site, choice.match)]
        if not matched:
            pointer = f"/search/sites/{index}/match"
            errors.append(_no_site(inspection, choice.match, pointer))
        for site in matched:
            wish = _by_choice(site, choice, index)
            if isinstance(wish, FieldError):
                errors.append(wish)
            else:
                found[site.site] = wish
    return [found[site.site] for site in inspection.sites if site.site in found]


def _by_default(site: Site) -> _Searched:
    kind = site.kinds[0]
    low, high, start = _prior(site, kind)
    return _Searched(site, kind, low, high, start, always_on=False)


def _prior(site: Site, kind: Kind) -> Prior:
    prior = _PATH if site.role == "branch" and kind == "path" else PRIORS[site.role]
    return prior._replace(high=min(prior.high, _cap(site)))


def _cap(site: Site) -> float:
    return MAX_RATE_BEFORE_BATCH_NORM if site.batch_norm == "direct" else 1.0


def _by_choice(site: Site, choice: SiteChoice, index: int) -> _Searched | FieldError:
    kinds = choice.kinds or site.kinds
    kind = next((kind for kind in kinds if kind in site.kinds), None)
    if kind is None:
        return FieldError(
            pointer=f"/search/sites/{index}/kinds",
            code="unknown-kind",
            message=f"'{site.site}' has no dropout of kind {_listed(kinds)}; "
            f"it allows {_listed(site.kinds)}",
            received=", ".join(kinds),
            allowed=site.kinds,
        )
    prior = _prior(site, kind)
    low, high = choice.rate or (prior.low, prior.high)
    if low > _cap(site):
        received = f"[{low:g}, {high:g}]"
        return FieldError(
            pointer=f"/search/sites/{index}/rate",
            code="out-of-range",
            message=f"'{site.site}' lies before a batch norm, where rates go up to "
            f"{_cap(site):g}; received {received}",
            received=received,
        )
    high = min(high, _cap(site))
    return _Searched(site, kind, low, high, prior.start, choice.always_on)


def _no_site(inspection: Inspection, name: str, pointer: str) -> FieldError:
    """What to say of a name or pattern that no site has."""
    shown = name[:MAX_SHOWN]
    if any(fnmatchcase(output, name) for output in _output_names(inspection)):
        return FieldError(
            pointer=pointer,
            code="output-layer-site",
            message=f"'{shown}' is the output layer; dropout there would drop what it predicts. "
            f"Sites of this model: {_listed(site.site for site in inspection.sites)}",
            received=shown,
            allowed=tuple(site.site for site in inspection.sites),
        )
    refused = next((e for e in inspection.excluded if fnmatchcase(e.site, name)), None)
    why = "" if refused is None else f" ('{refused.site}' was refused: {refused.reason})"
    nearest = _nearest(name, [site.site for site in inspection.sites])
    return FieldError(
        pointer=pointer,
        code="unknown-site",
        message=f"No site matches '{shown}'{why}. Nearest: {_listed(nearest)}",
        received=shown,
        allowed=nearest,
    )


def _output_names(inspection: Inspection) -> Iterator[str]:
    """What a user may call an output layer: its path, its output, what was excluded there."""
    for layer in inspection.output_layers:
        yield from (layer, f"{layer}:out")
    yield from (e.site for e in inspection.excluded if e.reason == "output_layer")


def _nearest(name: str, names: Collection[str]) -> tuple[str, ...]:
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.3)
    return tuple(close or sorted(names)[:3])


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def _placement_errors(inspection: Inspection, search: Search) -> list[FieldError]:
    names = {site.site for site in inspection.sites}
    errors = []
    for index, placement in enumerate(search.start_from):
        pointer = f"/search/start_from/{index}"
        if not any(rate > 0.0 for rate in placement.values()):
            message = "A placement to start from needs a rate above 0 at one site or more"
            errors.append(FieldError(pointer=pointer, code="out-of-range", message=message))
        errors += [
            _no_site(inspection, site, f"{pointer}/{_escaped(site)}")
            for site in placement
            if site not in names
        ]
    return errors


def _escaped(part: str) -> str:
    """One step of a pointer (RFC 6901, section 3)."""
    return part.replace("~", "~0").replace("/", "~1")


def _nothing_to_search(inspection: Inspection) -> FieldError:
    names = tuple(site.site for site in inspection.sites)
    if names:
        message = (
            "No site of this model is searched by default; name some under search.sites. "
            f"It has {_listed(names)}"
        )
        return FieldError(pointer="/search/sites", code="no-site", message=message, allowed=names)
    message = "No place in this model can have dropout: it has no site beside its output layer"
    return FieldError(pointer="/model", code="no-site", message=message)


def _groups(searched: list[_Searched], search: Search, errors: list[FieldError]) -> list[Group]:
    by = search.groups or ("by_site" if len(searched) <= MAX_GROUPS_BY_SITE else "by_role")
    members: dict[tuple[str, Kind], list[_Searched]] = {}
    for wish in searched:
        name = {"by_site": wish.site.site, "by_role": wish.site.role, "all": "all"}[by]
        members.setdefault((name, wish.kind), []).append(wish)
    names = [name for name, _ in members]
    groups = []
    for (name, kind), wishes in members.items():
        # A group has one kind: sites of other kinds under the same name are groups beside it.
        group = _group(name if names.count(name) == 1 else f"{name}.{kind}", kind, wishes)
        if isinstance(group, FieldError):
            errors.append(group)
        else:
            groups.append(group)
    return groups


def _group(name: str, kind: Kind, wishes: list[_Searched]) -> Group | FieldError:
    """Sites under one rate: the range that all of them allow, the most careful start."""
    low, high = max(wish.low for wish in wishes), min(wish.high for wish in wishes)
    sites = tuple(wish.site.site for wish in wishes)
    if low > high:
        message = f"Sites {_listed(sites)} share a rate but no range: one starts at {low:g}, "
        message += f"another ends at {high:g}"
        return FieldError(pointer="/search/groups", code="out-of-range", message=message)
    low = max(round(low, DIGITS), 10**-DIGITS)
    step = _step(low, high)
    n_steps = max(floor((high - low) / step + 1e-6), 0)
    n_zeros = max(1, round(ZERO_SHARE * (n_steps + 1) / (1 - ZERO_SHARE)))
    always_on = any(wish.always_on for wish in wishes)
    start = min(wish.start for wish in wishes)
    start_code = min(max(round((start - low) / step), 0), n_steps)
    return Group(
        group=name, sites=sites, kind=kind,
        low=low, high=round(low + n_steps * step, DIGITS), step=step,
        zero_codes=0 if always_on else n_zeros,
        start=round(low + start_code * step, DIGITS), always_on=always_on,
    )  # fmt: skip


def _step(low: float, high: float) -> float:
    """The largest step of which both ends are multiples, else the smallest."""
    for step in STEPS:
        if all(abs(end / step - round(end / step)) < 1e-6 for end in (low, high)):
            return step
    return STEPS[-1]
