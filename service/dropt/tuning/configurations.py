"""Search trials as configurations of the shortlist, and configurations as trials to train."""

from collections.abc import Mapping

from dropt.spec.inspection import Kind
from dropt.spec.job import Search
from dropt.spec.protocol import TrialParams
from dropt.spec.space import Dropout, Space
from dropt.storage.trials import TrialRow
from dropt.tuning.shortlist import Candidate, Configuration

TEXTBOOK_RATE = 0.2  # at every recommended site (Srivastava et al. 2014, appendix A: start low)


def candidate_of(trial: TrialRow) -> Candidate:
    """A search trial as it enters the shortlist."""
    return Candidate(
        trial=trial.id,
        configuration=Configuration(
            params=trial.params.model_dump(),
            rates={site: dropout.rate for site, dropout in trial.sites.items()},
        ),
        value=trial.value,
        completed=trial.state == "completed",
    )


def params_of(configuration: Configuration) -> TrialParams:
    """The nuisance settings of a configuration."""
    return TrialParams.model_validate(configuration.params)


def sites_of(configuration: Configuration, space: Space) -> dict[str, Dropout]:
    """The dropout of each site that is on, with the kind that is used there."""
    kinds: dict[str, Kind] = {site.site: site.kinds[0] for site in space.sites}
    kinds |= {site: group.kind for group in space.groups for site in group.sites}
    return {
        site: Dropout(kind=kinds[site], rate=rate)
        for site, rate in configuration.rates.items()
        if rate > 0
    }


def textbook_rates(space: Space) -> dict[str, float]:
    """0.2 at every recommended site."""
    return {site.site: TEXTBOOK_RATE for site in space.sites if site.recommended}


def site_kinds(space: Space, search: Search) -> dict[str, tuple[Kind, ...]]:
    """Site to the kinds that any trial of the job may use: the columns of its packs.

    These are the searched sites, the recommended ones (for `textbook`), and those of the
    placements that the user starts from.
    """
    named = {site for placement in search.start_from for site in placement}
    kinds: dict[str, tuple[Kind, ...]] = {
        site.site: (site.kinds[0],)
        for site in space.sites
        if site.recommended or site.site in named
    }
    searched = {site: (group.kind,) for group in space.groups for site in group.sites}
    return {**kinds, **searched}


def rates_by_group(space: Space, rates: Mapping[str, float]) -> dict[str, float]:
    """True rate of each group, from the rate of its first site."""
    return {group.group: rates.get(group.sites[0], 0.0) for group in space.groups}
