from math import isclose
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.service.tuning.spaces import MLP, make_inspection, make_search, make_site, make_space

from dropt.errors import FieldError, InvalidRequest
from dropt.spec.inspection import Excluded, Inspection, Role, Site
from dropt.spec.space import Range, Space
from dropt.tuning.space import PRIORS, build_space


def errors_of(inspection: Inspection, **search: Any) -> tuple[FieldError, ...]:
    with pytest.raises(InvalidRequest) as caught:
        build_space(inspection, make_search(**search))
    return caught.value.errors


def searched(space: Space) -> list[str]:
    return [site for group in space.groups for site in group.sites]


def test_recommended_sites_alone_are_searched_by_default() -> None:
    space = make_space(*MLP, make_site("layers.2:out", recommended=False))
    assert searched(space) == [":in", "layers.1:out", "layers.3:out"]
    assert [site.site for site in space.sites][-1] == "layers.2:out"
    assert space.fingerprint == "51ab"


def test_only_matched_sites_are_searched_when_the_user_names_some() -> None:
    off = make_site("layers.2:out", recommended=False)
    space = make_space(*MLP, off, sites=[{"match": "layers.[23]:out"}])
    assert searched(space) == ["layers.3:out", "layers.2:out"]


def test_the_last_choice_that_matches_a_site_holds() -> None:
    choices = [{"match": "*"}, {"match": ":in", "rate": [0.1, 0.2], "always_on": True}]
    groups = {group.group: group for group in make_space(sites=choices).groups}
    assert (groups[":in"].low, groups[":in"].high, groups[":in"].always_on) == (0.1, 0.2, True)
    assert not groups["layers.1:out"].always_on


def test_nuisances_come_from_the_search() -> None:
    space = make_space(also={"lr": 0.01, "l1": {"low": 0, "high": 0.1}})
    assert space.also["lr"] == 0.01
    assert space.also["l1"] == Range(low=0.0, high=0.1)
    assert space.also["weight_decay"] == Range(low=1e-6, high=1e-1, log=True)
    assert space.also["l2"] == 0.0


@pytest.mark.parametrize(
    ("role", "kind", "low", "high", "start"),
    [
        ("head", "element", 0.05, 0.7, 0.2),
        ("hidden", "element", 0.05, 0.7, 0.2),
        ("input", "element", 0.05, 0.3, 0.2),
        ("conv", "channel", 0.05, 0.3, 0.1),
        ("branch", "path", 0.05, 0.5, 0.1),
        ("branch", "element", 0.05, 0.3, 0.1),
        ("embed", "token", 0.05, 0.3, 0.1),
        ("rnn_in", "locked", 0.05, 0.6, 0.3),
        ("rnn_out", "locked", 0.05, 0.6, 0.3),
        ("rnn_inter", "locked", 0.05, 0.6, 0.3),
        ("attn_prob", "element", 0.05, 0.3, 0.1),
        ("attn_context", "element", 0.05, 0.3, 0.1),
    ],
)
def test_each_role_has_its_range_and_start(
    role: str, kind: str, low: float, high: float, start: float
) -> None:
    (group,) = make_space(make_site("a:out", role, kinds=(kind,))).groups
    assert (group.low, group.high, group.start, group.step) == (low, high, start, 0.05)
    assert group.kind == kind


def test_every_role_has_a_prior() -> None:
    assert set(PRIORS) == set(Role.__args__)  # type: ignore[attr-defined]  # of a Literal


@pytest.mark.parametrize(
    ("rate", "n_rates", "zero_codes"),
    [((0.05, 0.7), 14, 6), ((0.05, 0.3), 6, 3), ((0.1, 0.15), 2, 1), ((0.1, 0.9), 17, 7)],
)
def test_about_three_codes_in_ten_mean_zero(
    rate: tuple[float, float], n_rates: int, zero_codes: int
) -> None:
    (group,) = make_space(make_site("a:out"), sites=[{"match": "*", "rate": rate}]).groups
    assert round((group.high - group.low) / group.step) + 1 == n_rates
    assert group.zero_codes == zero_codes == max(1, round(0.3 * n_rates / 0.7))


def test_a_site_that_is_always_on_has_no_zero() -> None:
    (group,) = make_space(make_site("a:out"), sites=[{"match": "*", "always_on": True}]).groups
    assert group.zero_codes == 0


@pytest.mark.parametrize(
    ("rate", "step"),
    [((0.1, 0.9), 0.05), ((0.1, 0.33), 0.01), ((0.125, 0.3), 0.005), ((0.101, 0.3), 0.001)],
)
def test_a_finer_step_reaches_both_ends_of_the_range_of_a_user(
    rate: tuple[float, float], step: float
) -> None:
    (group,) = make_space(make_site("a:out"), sites=[{"match": "*", "rate": rate}]).groups
    assert (group.low, group.high, group.step) == (*rate, step)


@given(low=st.floats(0.001, 0.94), width=st.floats(0.0005, 0.9))
def test_any_range_of_a_user_gives_a_grid_within_it(low: float, width: float) -> None:
    high = min(low + width, 0.95)
    (group,) = make_space(make_site("a:out"), sites=[{"match": "*", "rate": [low, high]}]).groups
    assert group.low == round(low, 6)
    assert high - 0.0015 <= group.high <= high + 1e-6
    assert group.low <= group.start <= group.high


@pytest.mark.parametrize("rate", [None, [0.1, 0.5]])
def test_rates_before_a_batch_norm_stay_at_02(rate: list[float] | None) -> None:
    site = make_site("conv:out", "conv", batch_norm="direct", recommended=False)
    (group,) = make_space(site, sites=[{"match": "*", "rate": rate}]).groups
    assert group.high == 0.2


def test_a_recommended_site_before_a_batch_norm_is_capped_too() -> None:
    (group,) = make_space(make_site("a:out", "head", batch_norm="direct")).groups
    assert (group.high, group.start) == (0.2, 0.2)


def test_a_range_above_the_cap_before_a_batch_norm_is_refused() -> None:
    site = make_site("conv:out", batch_norm="direct")
    (error,) = errors_of(make_inspection(site), sites=[{"match": "*", "rate": [0.3, 0.5]}])
    assert error.pointer == "/search/sites/0/rate"
    assert error.received == "[0.3, 0.5]"
    assert "0.2" in error.message


def test_the_wished_kinds_that_a_site_allows_are_searched_the_first_first() -> None:
    conv = make_site("conv:out", "conv", kinds=("channel", "element"))
    dense = make_site("dense:out")
    choice = {"match": "*", "kinds": ["alpha", "element", "channel"]}
    groups = make_space(conv, dense, sites=[choice]).groups
    assert [group.kinds for group in groups] == [("element", "channel"), ("element",)]


def test_a_kind_that_a_site_does_not_allow_names_those_that_it_does() -> None:
    site = make_site("conv:out", "conv", kinds=("channel", "element"))
    (error,) = errors_of(make_inspection(site), sites=[{"match": "*", "kinds": ["locked"]}])
    assert error.pointer == "/search/sites/0/kinds"
    assert error.code == "unknown-kind"
    assert error.allowed == ("channel", "element")
    assert "'conv:out'" in error.message


def test_a_pattern_that_matches_nothing_is_unknown_with_the_nearest_names() -> None:
    choices = [{"match": "*"}, {"match": "layer.1:out"}]
    (error,) = errors_of(make_inspection(), sites=choices)
    assert error.pointer == "/search/sites/1/match"
    assert error.code == "unknown-site"
    assert error.received == "layer.1:out"
    assert error.allowed[0] == "layers.1:out"


def test_a_site_that_was_refused_says_why() -> None:
    refused = (Excluded(site="add:out", reason="skip_path"),)
    (error,) = errors_of(make_inspection(excluded=refused), sites=[{"match": "add:*"}])
    assert error.code == "unknown-site"
    assert "skip_path" in error.message


@pytest.mark.parametrize("match", ["layers.4:out", "layers.4", "layers.4*"])
def test_a_pattern_for_the_output_layer_is_refused(match: str) -> None:
    (error,) = errors_of(make_inspection(), sites=[{"match": match}])
    assert error.code == "output-layer-site"
    assert error.pointer == "/search/sites/0/match"
    assert "layers.3:out" in error.allowed


def test_a_pattern_that_covers_sites_and_the_output_layer_searches_the_sites() -> None:
    assert searched(make_space(sites=[{"match": "layers.*"}])) == ["layers.1:out", "layers.3:out"]


def test_all_errors_are_reported_at_once() -> None:
    errors = errors_of(
        make_inspection(),
        sites=[{"match": "nothing"}, {"match": "layers.4:out"}],
        start_from=[{"nothing": 0.2}],
    )
    assert [error.code for error in errors] == [
        "unknown-site",
        "output-layer-site",
        "unknown-site",
    ]


def test_a_placement_with_an_unknown_site_points_at_it() -> None:
    (error,) = errors_of(make_inspection(), start_from=[{":in": 0.2}, {"a/b~c": 0.2, ":in": 0.1}])
    assert error.pointer == "/search/start_from/1/a~1b~0c"
    assert error.code == "unknown-site"


def test_a_placement_on_the_output_layer_is_refused() -> None:
    (error,) = errors_of(make_inspection(), start_from=[{"layers.4:out": 0.2}])
    assert error.code == "output-layer-site"


def test_a_placement_without_any_dropout_is_refused() -> None:
    (error,) = errors_of(make_inspection(), start_from=[{":in": 0.0}])
    assert (error.pointer, error.code) == ("/search/start_from/0", "out-of-range")


def test_a_model_without_recommended_sites_says_which_may_be_named() -> None:
    site = make_site("conv:out", recommended=False)
    (error,) = errors_of(make_inspection(site))
    assert (error.pointer, error.code, error.allowed) == (
        "/search/sites",
        "no-site",
        ("conv:out",),
    )


def test_a_model_without_sites_says_so() -> None:
    with pytest.raises(InvalidRequest, match="No place in this model can have dropout"):
        build_space(Inspection(**make_inspection().model_dump() | {"sites": ()}), make_search())


@pytest.mark.parametrize("role", Role.__args__)  # type: ignore[attr-defined]  # of a Literal
def test_textbook_rate_lies_on_the_grid_of_every_role(role: str) -> None:
    (group,) = make_space(make_site("a:out", role)).groups
    steps = (0.2 - group.low) / group.step
    assert isclose(steps, round(steps), abs_tol=1e-9)


def test_a_space_survives_json() -> None:
    sites = [make_site(f"{i}:out") for i in range(30)]
    space = make_space(*sites, also={"lr": 0.1}, groups="by_site", schedules=["late", "ramp"])
    assert space.screening is not None
    assert Space.model_validate_json(space.model_dump_json(by_alias=True)) == space
    assert isinstance(space.sites[0], Site)


def test_a_number_fixes_the_rate_of_a_site() -> None:
    choices = [{"match": "*"}, {"match": ":in", "rate": 0.37}]
    fixed = make_space(sites=choices).groups[0]
    assert (fixed.low, fixed.high, fixed.start, fixed.zero_codes) == (0.37, 0.37, 0.37, 0)
    assert fixed.is_fixed
    assert fixed.always_on


def test_a_rate_fixed_at_zero_takes_a_site_out() -> None:
    choices = [{"match": "*"}, {"match": ":in", "rate": 0}]
    assert searched(make_space(sites=choices)) == ["layers.1:out", "layers.3:out"]


def test_excluded_sites_are_not_searched_whatever_matches_them() -> None:
    assert searched(make_space(exclude=["layers.*"])) == [":in"]
    assert searched(make_space(sites=[{"match": "*"}], exclude=[":in", "layers.3*"])) == [
        "layers.1:out"
    ]


@pytest.mark.parametrize(
    ("pattern", "code"), [("nothing*", "unknown-site"), ("layers.4:out", "output-layer-site")]
)
def test_an_exclusion_that_excludes_no_site_is_refused(pattern: str, code: str) -> None:
    (error,) = errors_of(make_inspection(), exclude=["*:in", pattern])
    assert (error.pointer, error.code) == ("/search/exclude/1", code)


def test_excluding_everything_is_refused() -> None:
    (error,) = errors_of(make_inspection(), exclude=["*"])
    assert error.code == "no-site"


def test_a_fixed_rate_above_the_cap_before_a_batch_norm_is_refused() -> None:
    site = make_site("conv:out", batch_norm="direct")
    (error,) = errors_of(make_inspection(site), sites=[{"match": "*", "rate": 0.3}])
    assert (error.code, error.received) == ("out-of-range", "0.3")


def test_rates_along_a_path_rise_linearly_unless_the_user_wants_them_equal() -> None:
    sites = [make_site(f"b.{i}:out", "branch", kinds=("path",)) for i in range(4)]
    (group,) = make_space(*sites, groups="all").groups
    assert group.profile == "linear"
    choice = {"match": "*", "profile": "constant"}
    assert make_space(*sites, groups="all", sites=[choice]).groups[0].profile == "constant"
    assert make_space().groups[0].profile == "constant"


def test_schedules_turn_at_a_quarter_and_half_of_the_epochs() -> None:
    search = make_search(schedules=["constant", "early", "late", "ramp"])
    space = build_space(make_inspection(), search, epochs=40)
    assert [one.model_dump(by_alias=True, exclude_none=True) for one in space.schedules] == [
        {"name": "constant"},
        {"name": "early", "until": 10.0}, {"name": "early", "until": 20.0},
        {"name": "late", "from": 10.0}, {"name": "late", "from": 20.0},
        {"name": "ramp", "until": 10.0}, {"name": "ramp", "until": 20.0},
    ]  # fmt: skip
    assert [one.label for one in space.schedules][:3] == ["constant", "early/10", "early/20"]


def test_the_rate_is_constant_by_default() -> None:
    assert [one.name for one in make_space().schedules] == ["constant"]
