"""The name that a mistyped one was meant to be."""

from collections.abc import Iterable

MAX_SHARE = 0.4  # edits over the longer length; above, a suggestion would be a guess


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The known name with the fewest edits, or None when none is close; case does not count."""
    scored = sorted((_edits(name.lower(), known.lower()), known) for known in names)
    if not scored:
        return None
    edits, best = scored[0]
    close = edits <= max(1, round(MAX_SHARE * max(len(name), len(best))))
    return best if close and min(len(name), len(best)) > edits else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A sentence with a leading space for the end of a message, empty without a close name."""
    best = nearest(name, names)
    return f" Did you mean '{best}'?" if best else ""


def _edits(a: str, b: str) -> int:
    """Optimal string alignment distance: insert, delete, replace, swap neighbours."""
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            cost = min(row[j - 1] + 1, rows[-1][j] + 1, rows[-1][j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]
