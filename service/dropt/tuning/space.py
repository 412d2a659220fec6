"""The search space of a job: which sites are searched, over which rates, in which groups."""

import difflib
from collections.abc import Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from dropt.errors import MAX_SHOWN, FieldError, InvalidRequest
from dropt.spec.inspection import Inspection, Kind, Role, Site
from dropt.spec.job import Search
from dropt.spec.space import Profile, Schedule, ScheduleName, SiteChoice, Space
from dropt.tuning.grouping import Searched, group_sites
from dropt.tuning.screening import lay_out

NUISANCES: Final = ("lr", "weight_decay", "l1", "l2")
MAX_RATE_BEFORE_BATCH_NORM: Final = 0.2
SHARES: Final = (0.25, 0.5)  # of the epochs, at which a schedule turns


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


def build_space(
    inspection: Inspection, search: Search, *, epochs: int = 27, trials: int = 64
) -> Space:
    """The space of a job over the sites that were found.

    Without a choice of the user the recommended sites are searched, with one those that it
    matches; the last choice that matches a site holds. Of `kinds`, those that the site allows
    are searched. An output layer is never searched: a pattern may cover it beside others.

    Args:
        inspection: what was found in the model.
        search: what the user wants.
        epochs: of a trial; schedules turn at shares of them.
        trials: of an arm; they decide how many groups can be told apart.

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
    groups = [] if errors else group_sites(searched, search, errors)
    if errors:
        raise InvalidRequest("; ".join(error.message for error in errors), errors=errors)
    found, screening = lay_out(groups, search, inspection.sites, trials=trials)
    return Space(
        fingerprint=inspection.fingerprint,
        sites=inspection.sites,
        excluded=inspection.excluded,
        groups=tuple(found),
        max_groups=search.max_groups,
        screening=screening,
        schedules=tuple(one for name in search.schedules for one in _schedules(name, epochs)),
        also={name: getattr(search.also, name) for name in NUISANCES},
    )


def _schedules(name: ScheduleName, epochs: int) -> list[Schedule]:
    """The curves of this name that are searched."""
    if name == "constant":
        return [Schedule()]
    turn = "from" if name == "late" else "until"
    return [Schedule.model_validate({"name": name, turn: share * epochs}) for share in SHARES]


def _searched_sites(
    inspection: Inspection, search: Search, errors: list[FieldError]
) -> list[Searched]:
    """The sites to search in the order of the model; what is wrong goes into `errors`."""
    found = {site.site: _by_default(site) for site in inspection.sites if site.recommended}
    if search.sites:
        found = {}
    for index, choice in enumerate(search.sites):
        for site in _matched(inspection, choice.match, f"/search/sites/{index}/match", errors):
            wish = _by_choice(site, choice, index)
            if isinstance(wish, FieldError):
                errors.append(wish)
            elif wish.high == 0.0:
                found.pop(site.site, None)
            else:
                found[site.site] = wish
    for index, pattern in enumerate(search.exclude):
        for site in _matched(inspection, pattern, f"/search/exclude/{index}", errors):
            found.pop(site.site, None)
    return [found[site.site] for site in inspection.sites if site.site in found]


def _matched(
    inspection: Inspection, pattern: str, pointer: str, errors: list[FieldError]
) -> list[Site]:
    """The sites whose names match; that there is none goes into `errors`."""
    matched = [site for site in inspection.sites if fnmatchcase(site.site, pattern)]
    if not matched:
        errors.append(_no_site(inspection, pattern, pointer))
    return matched


def _by_default(site: Site) -> Searched:
    kind = site.kinds[0]
    low, high, start = _prior(site, kind)
    return Searched(site, (kind,), low, high, start, _profile((kind,)), always_on=False)


def _profile(kinds: Sequence[Kind]) -> Profile:
    return "linear" if kinds[0] == "path" else "constant"


def _prior(site: Site, kind: Kind) -> Prior:
    prior = _PATH if site.role == "branch" and kind == "path" else PRIORS[site.role]
    return prior._replace(high=min(prior.high, _cap(site)))


def _cap(site: Site) -> float:
    return MAX_RATE_BEFORE_BATCH_NORM if site.batch_norm == "direct" else 1.0


def _by_choice(site: Site, choice: SiteChoice, index: int) -> Searched | FieldError:
    wished = choice.kinds or site.kinds[:1]
    kinds = tuple(dict.fromkeys(kind for kind in wished if kind in site.kinds))
    if not kinds:
        return FieldError(
            pointer=f"/search/sites/{index}/kinds",
            code="unknown-kind",
            message=f"'{site.site}' has no dropout of kind {_listed(wished)}; "
            f"it allows {_listed(site.kinds)}",
            received=", ".join(wished),
            allowed=site.kinds,
        )
    prior = _prior(site, kinds[0])
    low, high = _range(choice, prior)
    if low > _cap(site):
        received = f"{low:g}" if low == high else f"[{low:g}, {high:g}]"
        return FieldError(
            pointer=f"/search/sites/{index}/rate",
            code="out-of-range",
            message=f"'{site.site}' lies before a batch norm, where rates go up to "
            f"{_cap(site):g}; received {received}",
            received=received,
        )
    return Searched(
        site, kinds, low, min(high, _cap(site)), prior.start, choice.profile or _profile(kinds),
        always_on=choice.always_on or low == high,
    )  # fmt: skip


def _range(choice: SiteChoice, prior: Prior) -> tuple[float, float]:
    """What a user asks for, both ends alike where a number fixes the rate."""
    if choice.rate is None:
        return prior.low, prior.high
    return choice.rate if isinstance(choice.rate, tuple) else (choice.rate, choice.rate)


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
