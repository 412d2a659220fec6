"""The last block of a run: the verdict, the sites with their rates, and what to do next."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dropt.cli import figures
from dropt.spec.results import BestRead, Configuration, SiteRead, VerdictRead

COLOURS = {"helps": "bold green", "hurts": "bold red"}
REASONS = {
    "output_layer": "output layer",
    "before_batch_norm": "before batch norm",
    "skip_path": "skip path",
    "query_key_value": "query, key or value",
    "hard_coded": "rate is hard-coded",
    "covered": "covered by another site",
}


@dataclass(frozen=True)
class NextStep:
    """Something to do now: a word and the command."""

    what: str
    command: str


def print_answer(
    console: Console, verdict: VerdictRead, best: BestRead | None, steps: Sequence[NextStep]
) -> None:
    """Print the verdict, then the table of sites, then the next steps."""
    console.print()
    style = COLOURS.get(verdict.verdict, "bold")
    console.print(Text(headline(verdict), style=style), soft_wrap=True)
    for line in details(verdict):
        console.print(Text(f"  {line}"), soft_wrap=True)
    if best is not None:
        console.print()
        console.print(sites_table(best))
    if steps:
        console.print()
    width = max((len(step.what) for step in steps), default=0)
    for step in steps:
        console.print(Text(f"  {step.what:<{width}}  {step.command}"), soft_wrap=True)


def headline(verdict: VerdictRead) -> str:
    """The sentence of the service, marked as long as it may change."""
    return f"So far: {verdict.summary}" if verdict.provisional else verdict.summary


def details(verdict: VerdictRead) -> Iterator[str]:
    """What would decide it, then what to be careful about."""
    if verdict.would_decide:
        yield verdict.would_decide
    for caution in verdict.cautions:
        yield f"caution: {caution}"


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
    for never in best.never_dropped:
        reason = REASONS.get(never.reason, never.reason.replace("_", " "))
        table.add_row(f"  {never.site}", "", Text(f"never dropped ({reason})", style="dim"))
    return table


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
