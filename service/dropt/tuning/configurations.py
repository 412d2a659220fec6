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
            sites=trial.sites,
        ),
        value=trial.value,
        completed=trial.state == "completed",
    )


def params_of(configuration: Configuration) -> TrialParams:
    """The nuisance settings of a configuration."""
    return TrialParams.model_validate(configuration.params)


def textbook_sites(space: Space) -> dict[str, Dropout]:
    """0.2 at every recommended site, of the first kind that it allows."""
    return {
        site.site: Dropout(kind=site.kinds[0], rate=TEXTBOOK_RATE)
        for site in space.sites
        if site.recommended
    }


def site_kinds(space: Space, search: Search) -> dict[str, tuple[Kind, ...]]:
    """Site to the kinds that any trial of the job may use: the columns of its packs.

    These are the searched sites, the recommended ones (for `textbook`), those of the placements
    that the user starts from, and the model's own dropout, which is off unless it is asked for.
    """
    named = {site for placement in search.start_from for site in placement}
    kinds: dict[str, tuple[Kind, ...]] = {
        site.site: (site.kinds[0],)
        for site in space.sites
        if site.recommended or site.existing_rate is not None or site.site in named
    }
    for group in space.groups:
        for site in group.sites:
            kinds[site] = tuple(dict.fromkeys((*kinds.get(site, ()), *group.kinds)))
    return kinds


def rates_by_group(space: Space, sites: Mapping[str, Dropout]) -> dict[str, float]:
    """True rate of each group: the highest of its sites, which a profile reaches at its end."""
    return {
        group.group: max((sites[site].rate for site in group.sites if site in sites), default=0.0)
        for group in space.groups
    }
