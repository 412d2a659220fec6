"""The last block of a run: the verdict, the sites with their rates, and what to do next."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dropt.cli import figures
from dropt.spec.phrases import CAUTIONS, REASONS, phrase
from dropt.spec.results import BestRead, Configuration, SiteRead, VerdictRead

COLOURS = {"helps": "bold green", "hurts": "bold red"}


@dataclass(frozen=True)
class NextStep:
    """Something to do now: a word and the command."""

    what: str
    command: str


def print_answer(
    console: Console, verdict: VerdictRead | None, best: BestRead | None, steps: Sequence[NextStep]
) -> None:
    """Print the verdict, then the table of sites, then the next steps.

    Before there is a verdict, what is the best so far stands in its place.
    """
    console.print()
    if verdict is not None:
        style = COLOURS.get(verdict.verdict, "bold")
        console.print(Text(verdict.summary, style=style), soft_wrap=True)
        for line in details(verdict):
            console.print(Text(f"  {line}"), soft_wrap=True)
    elif best is not None:
        console.print(Text(best.summary), soft_wrap=True)
    if best is not None:
        console.print()
        console.print(sites_table(best))
        for line in never_lines(best):
            console.print(Text(f"  {line}", style="dim"), soft_wrap=True)
    if steps:
        console.print()
    width = max((len(step.what) for step in steps), default=0)
    for step in steps:
        console.print(Text(f"  {step.what:<{width}}  {step.command}"), soft_wrap=True)


def details(verdict: VerdictRead) -> Iterator[str]:
    """What would decide it, then what to be careful about."""
    if verdict.would_decide:
        yield verdict.would_decide
    for caution in verdict.cautions:
        yield f"caution: {phrase(caution, CAUTIONS)}"


def sites_table(best: BestRead) -> Table:
    """The sites of the recommended configuration, and beside them the best dropout found.

    The second column of rates is there when dropout is not what is recommended.
    """
    found = _best_dropout(best)
    table = Table(box=None, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("  site", no_wrap=True)
    table.add_column("units", justify="right")
    table.add_column("kind")
    table.add_column("rate", justify="right")
    if found is not None:
        table.add_column("best dropout found", justify="right")
    for site in _sites_of(best, found):
        rates = [_rate_at(best.recommended, site.site)]
        if found is not None:
            rates.append(_rate_at(found, site.site))
        kind = site.kind if any(rates) else "-"
        units = "" if site.units is None else str(site.units)
        table.add_row(f"  {site.site}", units, kind, *(figures.rate(value) for value in rates))
    return table


def never_lines(best: BestRead) -> Iterator[str]:
    """`layers.4:out  never dropped (output layer)`."""
    names = [site.site for site in best.recommended.sites]
    width = max(map(len, [*names, *(never.site for never in best.never_dropped)]), default=0)
    for never in best.never_dropped:
        reason = phrase(never.reason, REASONS)
        yield f"{never.site:<{width}}  never dropped ({reason})"


def _best_dropout(best: BestRead) -> Configuration | None:
    if any(site.rate for site in best.recommended.sites):
        return None
    alternatives = (each for each in best.alternatives if any(s.rate for s in each.sites))
    return next(alternatives, None)


def _sites_of(best: BestRead, found: Configuration | None) -> list[SiteRead]:
    sites = {site.site: site for site in best.recommended.sites}
    for site in found.sites if found is not None else ():
        if site.rate or site.site not in sites:  # the kind of a site without dropout says little
            sites[site.site] = site
    return list(sites.values())


def _rate_at(configuration: Configuration, name: str) -> float:
    return next((site.rate for site in configuration.sites if site.site == name), 0.0)
