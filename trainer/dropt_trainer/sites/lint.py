"""The linter: what is worth saying about dropout in a model, and what to do."""

from collections.abc import Iterable
from dataclasses import dataclass

from dropt.spec.inspection import Finding, Site

TEXTS = {
    "output-layer-site": (
        "Dropout at or behind the output layer drops predictions, not features.",
        "Take it out; dropt never searches here.",
    ),
    "before-batch-norm": (
        "A batch norm follows directly: dropout changes the variance that it learns to expect.",
        "Off by default. If you want it, keep the rate at or below 0.2.",
    ),
    "batch-norm-downstream": (
        "A batch norm follows behind the next layer, and sees another variance in training.",
        "Off by default; name the site in the job to search it all the same.",
    ),
    "double-dropout": (
        "Two dropouts act on the same units, one after the other.",
        "Keep one of them; this one is off by default.",
    ),
    "skip-path-dropout": (
        "Dropout on a skip path reaches every later layer.",
        "Move it into the residual branch.",
    ),
    "hard-coded-dropout": (
        "A rate that stands in the code, or is computed there, cannot be searched; it stays on.",
        "Hold the rate in an attribute, self.drop_rate, and pass that.",
    ),
    "dead-dropout": (
        "No dropout function received this rate: it is unused, or the code drops by itself.",
        "Remove it, or call torch.nn.functional.dropout with it.",
    ),
    "recurrent-per-step": (
        "A new mask at each time step disturbs what a recurrent layer remembers.",
        "Use kind locked here: one mask for all steps (Gal and Ghahramani 2016).",
    ),
    "alpha-mismatch": (
        "Plain dropout behind SELU breaks the mean and variance that SELU keeps.",
        "Use kind alpha here (torch.nn.AlphaDropout).",
    ),
    "token-input": (
        "The input holds integers: there is nothing to drop before the embedding.",
        "Search the embedding's output.",
    ),
}  # code: message, remedy


@dataclass(frozen=True)
class Note:
    """A code of TEXTS at a site, as discovery came across it."""

    code: str
    site: str


def lint(sites: Iterable[Site], notes: Iterable[Note]) -> tuple[Finding, ...]:
    """The findings on sites, and those noted on the way, each once."""
    all_notes = [*notes, *(Note(code, site.site) for site in sites for code in _codes(site))]
    return tuple(
        Finding(code=note.code, site=note.site, message=message, remedy=remedy)
        for note in dict.fromkeys(all_notes)
        for message, remedy in [TEXTS[note.code]]
    )


def _codes(site: Site) -> list[str]:
    """What can be read from the record of a site."""
    codes = []
    if site.batch_norm == "direct":
        codes.append("before-batch-norm")
    if site.batch_norm == "downstream":
        codes.append("batch-norm-downstream")
    if site.stream and site.existing_rate is not None and site.role != "embed":
        codes.append("skip-path-dropout")
    return codes
