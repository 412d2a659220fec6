"""Groups: sites that share a rate, by a rule or as the user ties them, and how groups merge."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from math import floor
from typing import Final

from dropt.errors import FieldError
from dropt.spec.inspection import Kind, Site
from dropt.spec.job import Search
from dropt.spec.space import Group, Profile

MAX_GROUPS_BY_SITE: Final = 6  # up to here each site has a rate of its own by default
MAX_BLOCKS: Final = 3  # of equal build in one stage; more are cut into thirds of the depth
THIRDS: Final = ("early", "middle", "late")
ZERO_SHARE: Final = 0.3  # of all codes; with more, useful groups are switched off
STEPS: Final = (0.05, 0.01, 0.005, 0.001)  # each divides 0.2, so the usual rate is on the grid
DIGITS: Final = 6  # of a rate after the point: 0.1 + 4 * 0.05 reads 0.3
MAX_NAME: Final = 60  # characters of a name made of the patterns of a user


@dataclass(frozen=True)
class Searched:
    """A site with what is searched there; `low` = `high` is a fixed rate."""

    site: Site
    kinds: tuple[Kind, ...]
    low: float
    high: float
    start: float
    profile: Profile
    always_on: bool

    @property
    def is_fixed(self) -> bool:
        return self.low == self.high


_Namer = Callable[[Sequence[Searched]], list[str]]
_Key = tuple[str, tuple[Kind, ...], Profile, float | None]


def group_sites(
    searched: Sequence[Searched], search: Search, errors: list[FieldError]
) -> list[Group]:
    """The groups of these sites, which are in the order of the model.

    A group has one choice of kinds, one profile and one range or fixed rate: sites that differ
    in these under the same name are groups beside it. What is wrong goes into `errors`.
    """
    tied, rest = _tied(searched, search, errors)
    named = tied + list(zip(_names(rest, search), rest, strict=True))
    members: dict[_Key, list[Searched]] = {}
    for name, wish in named:
        fixed = wish.low if wish.is_fixed else None
        members.setdefault((name, wish.kinds, wish.profile, fixed), []).append(wish)
    groups = []
    for label, wishes in zip(_distinct(list(members)), members.values(), strict=True):
        group = _group(label, wishes)
        if isinstance(group, FieldError):
            errors.append(group)
        else:
            groups.append(group)
    return groups


def merge_to(groups: Sequence[Group], n: int, sites: Sequence[Site]) -> list[Group]:
    """At most `n` groups, where the nearest in depth share a rate.

    Each round ties the nearest neighbours, no group twice, so that groups stay about equal.
    Groups of one role are tied first. Fixed ones stay as they are, as do those whose kinds,
    profiles or ranges do not go together: more than `n` may be left.
    """
    role = {site.site: site.role for site in sites}
    merged = list(groups)
    while len(merged) > n:
        pairs = _neighbours(merged, lambda g: (_kin(g), sorted({role[s] for s in g.sites})))
        pairs = pairs or _neighbours(merged, lambda g: (_kin(g), []))
        if not pairs:
            break
        merged = _tie(merged, pairs[: len(merged) - n], sites)
    return merged


def merge(groups: Sequence[Group], sites: Sequence[Site]) -> Group:
    """These groups as one: the range that all of them allow, the most careful start.

    Raises:
        ValueError: they have no range in common.
    """
    first, last = groups[0], groups[-1]
    low, high = max(g.low for g in groups), min(g.high for g in groups)
    if low > high:
        raise ValueError(f"groups {first.group} to {last.group} have no rate in common")
    members = {site for group in groups for site in group.sites}
    together = [site for site in sites if site.site in members]
    name = f"{first.group.split('..')[0]}..{last.group.split('..')[-1]}"
    return first.model_copy(
        update={
            "group": name if len(groups) > 1 else first.group,
            "sites": tuple(site.site for site in together),
            "depth": _mean_depth(together),
            **_grid(low, high, min(g.start for g in groups), always_on=first.always_on),
        }
    )


def stage_of(site: Site) -> str:
    """Module path of the stack that a site is in, without numbers: `encoder.layers`."""
    parts = _path(site)
    return ".".join(part for part in parts[: _end(parts)] if not part.isdigit())


def _path(site: Site) -> list[str]:
    path = site.site.rpartition(":")[0]
    return path.split(".") if path else []


def _end(parts: Sequence[str]) -> int:
    """Index of the last number in a module path; without one, of its last part."""
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    return numbers[-1] if numbers else max(len(parts) - 1, 0)


def _tied(
    searched: Sequence[Searched], search: Search, errors: list[FieldError]
) -> tuple[list[tuple[str, Searched]], list[Searched]]:
    """The sites that the user ties, with the name of their group, and the rest."""
    ties = search.groups if isinstance(search.groups, tuple) else ()
    left = {wish.site.site: wish for wish in searched}
    named: list[tuple[str, Searched]] = []
    for index, patterns in enumerate(ties):
        joined = "+".join(patterns)
        name = joined if len(joined) <= MAX_NAME else f"tied.{index + 1}"
        mine = []
        for place, pattern in enumerate(patterns):
            matched = [site for site in left if fnmatchcase(site, pattern)]
            mine += [left.pop(site) for site in matched]
            if not matched:
                errors.append(_nothing_to_tie(pattern, f"/search/groups/{index}/{place}"))
        if len({wish.kinds for wish in mine}) > 1:
            errors.append(_no_common_kinds(mine, f"/search/groups/{index}"))
        named += [(name, wish) for wish in mine]
    return named, list(left.values())


def _nothing_to_tie(pattern: str, pointer: str) -> FieldError:
    message = f"'{pattern}' matches no searched site that is not tied before"
    return FieldError(pointer=pointer, code="unknown-site", message=message, received=pattern)


def _no_common_kinds(wishes: Sequence[Searched], pointer: str) -> FieldError:
    kinds = "; ".join(f"'{wish.site.site}': {', '.join(wish.kinds)}" for wish in wishes[:6])
    message = f"Tied sites need the same kinds; name them under search.sites. Now: {kinds}"
    return FieldError(pointer=pointer, code="unknown-kind", message=message)


def _names(searched: Sequence[Searched], search: Search) -> list[str]:
    """The name of the group of each site."""
    by = search.groups if isinstance(search.groups, str) else None
    if by is None:
        by = "by_site" if len(searched) <= MAX_GROUPS_BY_SITE else "by_stage"
    if by == "by_depth":
        n_groups = min(search.max_groups, len(searched))
        return [f"depth.{i * n_groups // len(searched) + 1}" for i in range(len(searched))]
    return _NAMERS[by](searched)


def _stages(searched: Sequence[Searched]) -> list[str]:
    """Role and stage of each site, the stage cut by resolution or into thirds of its depth."""
    blocks: dict[str, dict[str, None]] = {}
    for wish in searched:
        parts = _path(wish.site)
        block = ".".join(parts[: _end(parts) + 1])
        blocks.setdefault(stage_of(wish.site), {})[block] = None
    names = []
    for wish in searched:
        stage, parts = stage_of(wish.site), _path(wish.site)
        ordered = list(blocks[stage])
        cut = _cut(wish.site, ordered.index(".".join(parts[: _end(parts) + 1])), len(ordered))
        names.append(".".join(part for part in (wish.site.role, stage, cut) if part))
    return names


def _cut(site: Site, block: int, n_blocks: int) -> str:
    if site.role == "conv" and len(site.shape) > 1:
        return "x".join(str(size) for size in site.shape[1:])
    return THIRDS[block * 3 // n_blocks] if n_blocks > MAX_BLOCKS else ""


_NAMERS: Final[dict[str, _Namer]] = {
    "by_site": lambda searched: [wish.site.site for wish in searched],
    "by_stage": _stages,
    "by_role": lambda searched: [wish.site.role for wish in searched],
    "all": lambda searched: ["all"] * len(searched),
}


def _distinct(keys: Sequence[_Key]) -> list[str]:
    """A name for each key: what differs between those of one name is said behind it."""
    labels = []
    for name, kinds, profile, fixed in keys:
        alike = [key for key in keys if key[0] == name]
        said = [name]
        if len({key[1] for key in alike}) > 1:
            said.append("-".join(kinds))
        if len({key[2] for key in alike}) > 1:
            said.append(profile)
        if len({key[3] for key in alike}) > 1 and fixed is not None:
            said.append(f"{fixed:g}")
        labels.append(".".join(said))
    return labels


def _group(name: str, wishes: Sequence[Searched]) -> Group | FieldError:
    low, high = max(wish.low for wish in wishes), min(wish.high for wish in wishes)
    if low > high:
        listed = ", ".join(f"'{wish.site.site}'" for wish in wishes)
        message = f"Sites {listed} share a rate but no range: one starts at {low:g}, "
        message += f"another ends at {high:g}"
        return FieldError(pointer="/search/groups", code="out-of-range", message=message)
    always_on = any(wish.always_on for wish in wishes)
    start = min(wish.start for wish in wishes)
    return Group.model_validate(
        {
            "group": name,
            "sites": tuple(wish.site.site for wish in wishes),
            "kinds": wishes[0].kinds,
            "profile": wishes[0].profile,
            "always_on": always_on,
            "depth": _mean_depth([wish.site for wish in wishes]),
            **_grid(low, high, start, always_on=always_on),
        }
    )


def _mean_depth(sites: Sequence[Site]) -> float:
    return round(sum(site.depth for site in sites) / len(sites), DIGITS)


def _grid(low: float, high: float, start: float, *, always_on: bool) -> dict[str, float | int]:
    """The grid from `low` to `high`, its codes of rate 0, and the start on it."""
    low = max(round(low, DIGITS), 10**-DIGITS)
    step = _step(low, high)
    n_steps = max(floor((high - low) / step + 1e-6), 0)
    n_zeros = max(1, round(ZERO_SHARE * (n_steps + 1) / (1 - ZERO_SHARE)))
    start_code = min(max(round((start - low) / step), 0), n_steps)
    return {
        "low": low,
        "high": round(low + n_steps * step, DIGITS),
        "step": step,
        "zero_codes": 0 if always_on else n_zeros,
        "start": round(low + start_code * step, DIGITS),
    }


def _step(low: float, high: float) -> float:
    """The largest step of which both ends are multiples, else the smallest."""
    for step in STEPS:
        if all(abs(end / step - round(end / step)) < 1e-6 for end in (low, high)):
            return step
    return STEPS[-1]


def _kin(group: Group) -> tuple[tuple[Kind, ...], Profile, bool]:
    return group.kinds, group.profile, group.always_on


def _neighbours(
    groups: Sequence[Group], class_of: Callable[[Group], object]
) -> list[tuple[Group, Group]]:
    """Pairs of one class next to each other in depth that may merge, the nearest first.

    No group is in two pairs.
    """
    classes: dict[str, list[Group]] = {}
    for group in sorted(groups, key=lambda g: g.depth):
        if not group.is_fixed:
            classes.setdefault(repr(class_of(group)), []).append(group)
    pairs = [
        (a, b)
        for members in classes.values()
        for a, b in pairwise(members)
        if max(a.low, b.low) <= min(a.high, b.high)
    ]
    return _disjoint(sorted(pairs, key=_distance))


def _distance(pair: tuple[Group, Group]) -> tuple[float, int]:
    """How far apart in depth; of equal distances the fewest sites come first."""
    a, b = pair
    return round(b.depth - a.depth, 3), len(a.sites) + len(b.sites)


def _disjoint(pairs: Iterable[tuple[Group, Group]]) -> list[tuple[Group, Group]]:
    taken: set[str] = set()
    chosen = []
    for a, b in pairs:
        if not {a.group, b.group} & taken:
            taken |= {a.group, b.group}
            chosen.append((a, b))
    return chosen


def _tie(
    groups: Sequence[Group], pairs: Sequence[tuple[Group, Group]], sites: Sequence[Site]
) -> list[Group]:
    """The groups with each pair as one, in the place of its first."""
    merged = {a.group: merge((a, b), sites) for a, b in pairs}
    gone = {b.group for _, b in pairs}
    return [merged.get(group.group, group) for group in groups if group.group not in gone]
