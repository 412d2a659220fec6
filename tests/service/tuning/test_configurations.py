from dataclasses import replace

import pytest
from tests.factories import inspection, site
from tests.service.conftest import Done
from tests.service.tuning.spaces import make_inspection, make_search, make_space

from dropt.spec.protocol import TrialParams
from dropt.spec.space import Dropout
from dropt.tuning.configurations import (
    candidate_of,
    params_of,
    rates_by_group,
    site_kinds,
    textbook_sites,
)
from dropt.tuning.shortlist import Configuration
from dropt.tuning.space import build_space


def test_search_trial_enters_the_shortlist_with_the_rate_of_each_site(done: Done) -> None:
    row = done.trials(phase="search", arm="with")[0]
    candidate = candidate_of(row)
    assert (candidate.trial, candidate.value) == (row.id, row.value)
    assert candidate.configuration.sites == {"layers.1:out": Dropout(rate=0.35)}
    assert candidate.configuration.params == row.params.model_dump()
    assert candidate.completed == (row.state == "completed")


@pytest.mark.parametrize("state", ["pruned", "failed", "cancelled", "running"])
def test_trial_that_was_not_completed_is_marked(done: Done, state: str) -> None:
    row = replace(done.trials(phase="search")[0], state=state)  # type: ignore[arg-type]
    assert not candidate_of(row).completed


def test_configuration_comes_back_from_what_was_stored(done: Done) -> None:
    for row in done.trials(phase="search", states=["completed"]):
        configuration = candidate_of(row).configuration
        assert params_of(configuration) == row.params
        assert configuration.on == row.sites


def test_textbook_drops_a_fifth_at_each_recommended_site() -> None:
    two = site("a").model_copy(update={"kinds": ("channel", "element")})
    space = build_space(make_inspection(two, site("b", recommended=False)), make_search())
    assert textbook_sites(space) == {"a": Dropout(kind="channel", rate=0.2)}


def test_pack_has_columns_for_every_site_that_a_trial_may_use() -> None:
    """Searched ones, recommended ones for the textbook, and those that the user starts from."""
    sites = (site("a"), site("b", recommended=False), site("c", recommended=False), site("d"))
    search = make_search(sites=[{"match": "a"}], start_from=[{"b": 0.1}])
    space = build_space(make_inspection(*sites), search)
    assert set(site_kinds(space, search)) == {"a", "b", "d"}


def test_rate_of_a_group_is_that_of_its_sites() -> None:
    space = make_space(site("a"), site("b"), groups="all")
    assert rates_by_group(space, dict.fromkeys("ab", Dropout(rate=0.3))) == {"all": 0.3}
    assert rates_by_group(space, {}) == {"all": 0.0}


def test_rate_of_a_group_whose_rates_rise_is_the_highest() -> None:
    space = make_space(site("a"), site("b"), groups="all")
    rising = {"a": Dropout(rate=0.1), "b": Dropout(rate=0.2)}
    assert rates_by_group(space, rising) == {"all": 0.2}


def test_nuisances_are_those_of_the_configuration() -> None:
    assert params_of(Configuration({"lr": 0.1, "l1": 0.2}, {})) == TrialParams(lr=0.1, l1=0.2)
    assert inspection().fingerprint == "51ab"
