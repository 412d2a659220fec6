from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.service.tuning.spaces import MLP, make_inspection, make_search, make_site, make_space

from dropt.errors import FieldError, InvalidRequest
from dropt.spec.inspection import Inspection, Site
from dropt.spec.space import Group, Space
from dropt.tuning.grouping import merge, merge_to, stage_of
from dropt.tuning.space import build_space


def names(space: Space) -> list[str]:
    return [group.group for group in space.groups]


def errors_of(inspection: Inspection, **search: Any) -> tuple[FieldError, ...]:
    with pytest.raises(InvalidRequest) as caught:
        build_space(inspection, make_search(**search))
    return caught.value.errors


def stack(n: int, role: str = "hidden", **fields: Any) -> list[Site]:
    """Sites of equal blocks, one behind the other."""
    return [make_site(f"layers.{i}:out", role, depth=i / n, **fields) for i in range(n)]


def ungrouped(sites: list[Site], *choices: Mapping[str, object]) -> list[Group]:
    """A group for each site."""
    space = make_space(*sites, groups="by_site", max_groups=100, sites=choices)
    return list(space.groups)


# ---- rules


def test_six_sites_have_a_rate_each_and_seven_share_by_stage() -> None:
    sites = stack(6)
    assert names(make_space(*sites)) == [site.site for site in sites]
    more = make_space(*sites, make_site("head:out", "head"))
    assert names(more) == ["hidden.layers.early", "hidden.layers.middle", "hidden.layers.late",
                           "head"]  # fmt: skip
    assert [len(group.sites) for group in more.groups] == [2, 2, 2, 1]


@pytest.mark.parametrize(
    ("by", "expected"),
    [("by_site", ["a:out", "b:out", "c:out"]), ("by_role", ["hidden", "head"]), ("all", ["all"]),
     ("by_stage", ["hidden", "head"]), ("by_depth", ["depth.1", "depth.2", "depth.3"])],
)  # fmt: skip
def test_sites_are_grouped_as_asked(by: str, expected: list[str]) -> None:
    sites = [make_site("a:out"), make_site("b:out"), make_site("c:out", "head")]
    assert names(make_space(*sites, groups=by)) == expected


def test_depth_is_cut_into_as_many_equal_parts_as_groups_are_allowed() -> None:
    groups = make_space(*stack(10), groups="by_depth", max_groups=4).groups
    assert [len(group.sites) for group in groups] == [3, 2, 3, 2]
    assert [group.depth for group in groups] == [0.1, 0.35, 0.6, 0.85]


@pytest.mark.parametrize(
    ("site", "stage"),
    [("layers.3:out", "layers"), ("encoder.layers.0.linear1:out", "encoder.layers"),
     ("layer1.0.conv2:in", "layer1"), ("features.conv1:out", "features"), ("fc1:out", ""),
     (":in", ""), ("swin.layers.0.blocks.1.mlp:out", "swin.layers.blocks")],
)  # fmt: skip
def test_a_stage_is_the_stack_that_a_site_is_in(site: str, stage: str) -> None:
    assert stage_of(make_site(site)) == stage


def test_convolutions_share_a_rate_by_resolution() -> None:
    sizes = (32, 32, 16, 16, 16, 16, 8)
    sites = [
        make_site(f"features.{i}:out", "conv", kinds=("channel",), shape=(4, size, size))
        for i, size in enumerate(sizes)
    ]
    space = make_space(*sites)
    assert names(space) == [f"conv.features.{size}x{size}" for size in (32, 16, 8)]


def test_up_to_three_equal_blocks_are_one_stage() -> None:
    three = [make_site(f"layer1.{i}.conv:in") for i in range(3)]
    four = [make_site(f"layer2.{i}.conv:in") for i in range(4)]
    assert names(make_space(*three, *four)) == [
        "hidden.layer1", "hidden.layer2.early", "hidden.layer2.middle", "hidden.layer2.late",
    ]  # fmt: skip


def test_sites_of_another_kind_are_a_group_of_their_own() -> None:
    conv = make_site("conv:out", "conv", kinds=("channel",))
    groups = make_space(*MLP, conv, groups="all").groups
    assert [(group.group, group.kinds) for group in groups] == [
        ("all.element", ("element",)), ("all.channel", ("channel",)),
    ]  # fmt: skip


def test_fixed_rates_and_profiles_are_groups_of_their_own() -> None:
    choices = [
        {"match": "*"}, {"match": ":in", "rate": 0.1}, {"match": "layers.1*", "rate": 0.3},
    ]  # fmt: skip
    groups = make_space(sites=choices, groups="all").groups
    assert {group.group: group.is_fixed for group in groups} == {
        "all.0.1": True, "all.0.3": True, "all": False,
    }  # fmt: skip


def test_a_group_has_the_range_that_all_its_sites_allow() -> None:
    (group,) = make_space(groups="all").groups
    assert (group.low, group.high, group.start) == (0.05, 0.3, 0.2)  # that of the input


def test_a_group_without_a_common_range_is_refused() -> None:
    choices = [{"match": ":in", "rate": [0.1, 0.2]}, {"match": "layers.1:out", "rate": [0.5, 0.6]}]
    (error,) = errors_of(make_inspection(), sites=choices, groups="all")
    assert (error.pointer, error.code) == ("/search/groups", "out-of-range")


# ---- ties of the user


def test_tied_sites_share_a_rate_and_the_rest_is_grouped_by_default() -> None:
    space = make_space(*stack(4), groups=[["layers.0:out", "layers.[23]:out"]])
    assert [(group.group, group.sites) for group in space.groups] == [
        ("layers.0:out+layers.[23]:out", ("layers.0:out", "layers.2:out", "layers.3:out")),
        ("layers.1:out", ("layers.1:out",)),
    ]  # fmt: skip


def test_a_tie_with_a_long_name_is_numbered() -> None:
    space = make_space(
        *stack(4), groups=[["layers.0:out"], [f"layers.{i}:out" for i in (1, 2, 3)]]
    )
    assert names(space) == ["layers.0:out", "layers.1:out+layers.2:out+layers.3:out"]
    long = [f"layers.{i}:*" + "*" * 30 for i in (1, 2)]
    assert names(make_space(*stack(4), groups=[["layers.0:out"], long]))[1] == "tied.2"


@pytest.mark.parametrize("pattern", ["nothing", "layers.0:out", "layers.4:out"])
def test_a_tie_that_matches_no_searched_site_is_refused(pattern: str) -> None:
    ties = [["layers.0:out"], ["layers.1:out", pattern]]
    (error,) = errors_of(make_inspection(*stack(3)), groups=ties)
    assert (error.pointer, error.code) == ("/search/groups/1/1", "unknown-site")


def test_tied_sites_of_different_kinds_are_refused() -> None:
    conv = make_site("conv:out", "conv", kinds=("channel", "element"))
    (error,) = errors_of(make_inspection(*stack(2), conv), groups=[["*"]])
    assert (error.pointer, error.code) == ("/search/groups/0", "unknown-kind")
    choice = {"match": "*", "kinds": ["element"]}
    assert len(make_space(*stack(2), conv, groups=[["*"]], sites=[choice]).groups) == 1


# ---- merging


@settings(max_examples=40)
@given(n_sites=st.integers(1, 60), n=st.integers(1, 20), roles=st.integers(1, 3))
def test_merging_keeps_every_site_once_and_no_more_groups_than_asked(
    n_sites: int, n: int, roles: int
) -> None:
    sites = [
        make_site(f"l.{i}:out", ("hidden", "head", "input")[i % roles], depth=i / n_sites)
        for i in range(n_sites)
    ]
    merged = merge_to(ungrouped(sites), n, sites)
    assert sorted(s for g in merged for s in g.sites) == sorted(site.site for site in sites)
    assert len(merged) <= max(n, 1)
    assert len({group.group for group in merged}) == len(merged)


def test_merged_groups_are_about_equal_and_hang_together() -> None:
    sites = stack(100)
    merged = merge_to(ungrouped(sites), 12, sites)
    sizes = [len(group.sites) for group in merged]
    assert len(merged) == 12
    assert max(sizes) <= 2 * min(sizes)
    for group in merged:
        first = int(group.sites[0].split(".")[1].split(":")[0])
        assert group.sites == tuple(f"layers.{first + i}:out" for i in range(len(group.sites)))
    assert merged[0].group == f"layers.0:out..{merged[0].sites[-1]}"


def test_groups_of_one_role_merge_before_those_of_different_roles() -> None:
    near = [make_site("a:out", depth=0.1), make_site("b:out", "head", depth=0.11)]
    far = [make_site("c:out", depth=0.9)]
    merged = merge_to(ungrouped([*near, *far]), 2, [*near, *far])
    assert [group.sites for group in merged] == [("a:out", "c:out"), ("b:out",)]


def test_what_does_not_go_together_stays_apart() -> None:
    sites = [make_site("a:out"), make_site("b:out"), make_site("c:out", kinds=("channel",))]
    groups = ungrouped(sites, {"match": "*"}, {"match": "a:out", "rate": 0.3})
    assert [group.group for group in merge_to(groups, 1, sites)] == ["a:out", "b:out", "c:out"]
    low, high = {"match": "a:out", "rate": [0.1, 0.2]}, {"match": "b:out", "rate": [0.3, 0.4]}
    apart = ungrouped(sites[:2], low, high)
    assert len(merge_to(apart, 1, sites)) == 2
    with pytest.raises(ValueError, match="no rate in common"):
        merge(apart, sites)


def test_a_merged_group_has_the_range_that_all_allow_and_the_most_careful_start() -> None:
    sites = [make_site("a:out", "conv"), make_site("b:out", "head")]
    (group,) = merge_to(ungrouped(sites), 1, sites)
    assert (group.low, group.high, group.start) == (0.05, 0.3, 0.1)
    assert group.zero_codes == 3
