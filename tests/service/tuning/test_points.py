from hypothesis import given, settings
from hypothesis import strategies as st
from tests.service.tuning.spaces import make_site, make_space

from dropt.spec.protocol import TrialParams
from dropt.spec.space import Dropout, Group, Schedule, Space
from dropt.tuning.points import (
    KIND_PREFIX,
    RATE_PREFIX,
    SCHEDULE,
    code_of,
    decode,
    encode,
    group_rate,
    is_with_dropout,
    n_rates,
    place,
    rate_of,
    schedule_of,
)  # fmt: skip

SPACE = make_space()
PARAMS = TrialParams(lr=0.003, weight_decay=1e-4)


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """Spaces of one to three groups over ranges, kinds and profiles of users, some always on."""
    choices: list[dict[str, object]] = []
    sites = []
    for index in range(draw(st.integers(1, 3))):
        low = draw(st.integers(1, 89)) / 100
        high = low + draw(st.integers(1, 5)) / 100
        choices.append(
            {
                "match": f"{index}.*",
                "rate": draw(st.sampled_from([[low, high], low])),
                "always_on": draw(st.booleans()),
                "kinds": draw(st.sampled_from([["element"], ["element", "channel"]])),
                "profile": draw(st.sampled_from(["constant", "linear"])),
            }
        )
        sites += [
            make_site(f"{index}.{i}:out", kinds=("element", "channel"))
            for i in range(draw(st.integers(1, 4)))
        ]
    ties = [[f"{index}.*"] for index in range(len(choices))]
    names = st.lists(
        st.sampled_from(["constant", "early", "late", "ramp"]), min_size=1, unique=True
    )
    return make_space(*sites, sites=choices, groups=ties, schedules=draw(names))


@st.composite
def codes_of(draw: st.DrawFn, space: Space) -> dict[str, float | str]:
    codes: dict[str, float | str] = {"lr": draw(st.floats(3e-4, 3e-2))}
    codes["weight_decay"] = draw(st.floats(1e-6, 1e-1))
    for group in space.groups:
        on = st.integers(-group.zero_codes, n_rates(group) - 1)
        codes[RATE_PREFIX + group.group] = draw(on)
        if len(group.kinds) > 1:
            codes[KIND_PREFIX + group.group] = draw(st.sampled_from(group.kinds))
    if len(space.schedules) > 1:
        codes[SCHEDULE] = draw(st.sampled_from([one.label for one in space.schedules]))
    return codes


@settings(max_examples=50)
@given(st.data())
def test_codes_mean_a_configuration_that_has_these_codes(data: st.DataObject) -> None:
    space = data.draw(spaces())
    point = decode(space, "with", data.draw(codes_of(space)))
    codes = encode(space, "with", point.params, point.sites)
    assert decode(space, "with", codes) == point
    assert all(0.0 < dropout.rate < 1.0 for dropout in point.sites.values())


@settings(max_examples=50)
@given(st.data())
def test_codes_above_zero_survive_the_round_trip(data: st.DataObject) -> None:
    space = data.draw(spaces())
    codes = data.draw(codes_of(space))
    point = decode(space, "with", codes)
    back = encode(space, "with", point.params, point.sites)
    for group in space.groups:
        name = RATE_PREFIX + group.group
        asked, got = float(codes[name]), float(back[name])
        assert got == asked or (got < 0 and asked < 0)
        kind = KIND_PREFIX + group.group
        if asked >= 0 and kind in codes:
            assert back[kind] == codes[kind]
    if point.sites and SCHEDULE in codes:
        assert back[SCHEDULE] == codes[SCHEDULE]


@settings(max_examples=50)
@given(st.data())
def test_rates_are_zero_or_within_the_range_and_short_to_read(data: st.DataObject) -> None:
    space = data.draw(spaces())
    point = decode(space, "with", data.draw(codes_of(space)))
    for group in space.groups:
        rate = point.rates[group.group]
        assert rate == 0.0 or group.low <= rate <= group.high
        assert len(repr(rate)) <= 6  # of steps of 0.01 at least


def test_a_code_below_zero_is_exactly_no_dropout() -> None:
    group = SPACE.groups[1]
    assert [rate_of(group, code) for code in (-group.zero_codes, -1, 0)] == [0.0, 0.0, 0.05]
    assert [rate_of(group, code) for code in range(14)] == [
        0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7,
    ]  # fmt: skip


def test_settings_have_four_significant_digits_and_stay_in_their_range() -> None:
    codes = {RATE_PREFIX + g.group: 0.0 for g in SPACE.groups}
    point = decode(SPACE, "with", codes | {"lr": 0.00123456, "weight_decay": 1e-6})
    assert (point.params.lr, point.params.weight_decay) == (0.001235, 1e-6)


def test_sites_of_a_placement_have_the_kind_and_rate_of_their_group() -> None:
    sites = [
        make_site("a:out"),
        make_site("b:out"),
        make_site("c:out", "conv", kinds=("channel",)),
    ]
    space = make_space(*sites, groups="by_role")
    point = place(space, PARAMS, {"hidden": 0.25, "conv": 0.0})
    assert point.sites == {"a:out": Dropout(rate=0.25), "b:out": Dropout(rate=0.25)}
    both = place(space, PARAMS, {"hidden": 0.25, "conv": 0.1})
    assert both.sites["c:out"] == Dropout(kind="channel", rate=0.1)


def test_the_arm_without_dropout_has_no_rates() -> None:
    point = decode(SPACE, "without", {"lr": 0.01, "weight_decay": 0.001})
    assert (point.rates, point.sites) == ({}, {})
    assert encode(SPACE, "without", point.params, {}) == {"lr": 0.01, "weight_decay": 0.001}
    assert [is_with_dropout(arm) for arm in ("without", "with", "textbook")] == [
        False,
        True,
        False,
    ]


def test_settings_that_the_space_fixes_have_no_code() -> None:
    space = make_space(also={"lr": 0.01, "weight_decay": 0.0, "l2": 0.5})
    assert encode(space, "without", TrialParams(lr=0.01, l2=0.5), {}) == {}
    assert decode(space, "without", {}).params == TrialParams(lr=0.01, l2=0.5)


def test_rates_beside_the_grid_have_the_nearest_code() -> None:
    group = SPACE.groups[1]
    assert [rate_of(group, code_of(group, rate)) for rate in (0.01, 0.17, 0.18, 0.9)] == [
        0.05, 0.15, 0.2, 0.7,
    ]  # fmt: skip


def test_a_group_that_is_always_on_has_no_code_for_zero() -> None:
    group = make_space(make_site("a:out"), sites=[{"match": "*", "always_on": True}]).groups[0]
    assert code_of(group, 0.0) == 0


def test_zero_has_the_middle_one_of_its_codes() -> None:
    def group(n: int) -> Group:
        return SPACE.groups[0].model_copy(update={"zero_codes": n})

    assert [code_of(group(n), 0.0) for n in (1, 2, 3, 6)] == [-1, -1, -2, -3]


@settings(max_examples=50)
@given(st.data())
def test_a_placement_has_one_kind_in_a_group_and_one_schedule(data: st.DataObject) -> None:
    """Space to codes to placement: exactly 0 below the range, the chosen kind and curve above."""
    space = data.draw(spaces())
    codes = data.draw(codes_of(space))
    point = decode(space, "with", codes)
    for group in space.groups:
        is_on = float(codes[RATE_PREFIX + group.group]) >= 0
        found = [point.sites[site] for site in group.sites if site in point.sites]
        assert len(found) == (len(group.sites) if is_on else 0)
        assert {of.kind for of in found} <= {codes.get(KIND_PREFIX + group.group, group.kind)}
        assert {of.schedule.label for of in found} <= {
            codes.get(SCHEDULE, space.schedules[0].label)
        }
        assert group_rate(group, point.sites) == point.rates[group.group]


def test_a_linear_profile_rises_to_the_rate_at_the_last_site() -> None:
    sites = [make_site(f"b.{i}:out", "branch", kinds=("path",)) for i in range(4)]
    space = make_space(*sites, groups="all")
    point = place(space, PARAMS, {"all": 0.3})
    assert [of.rate for of in point.sites.values()] == [0.075, 0.15, 0.225, 0.3]
    assert encode(space, "with", PARAMS, point.sites)["rate/all"] == 5


def test_a_placement_beside_the_groups_is_known_by_its_mean() -> None:
    space = make_space(make_site("a:out"), make_site("b:out"), groups="all")
    placed = {"a:out": Dropout(rate=0.5), "c:out": Dropout(rate=0.9)}
    assert group_rate(space.groups[0], placed) == 0.25
    assert encode(space, "with", PARAMS, placed)["rate/all"] == 4


def test_a_kind_or_schedule_that_is_not_searched_is_known_as_the_first() -> None:
    conv = make_site("a:out", kinds=("channel", "element", "token"))
    choice = {"match": "*", "kinds": ["channel", "element"]}
    space = make_space(conv, sites=[choice], schedules=["early", "constant"])
    placed = {"a:out": Dropout(kind="token", rate=0.1)}
    assert encode(space, "with", PARAMS, placed)["kind/a:out"] == "channel"
    odd = Dropout(rate=0.1, schedule=Schedule(name="ramp", until=1))
    assert schedule_of(space, {"a:out": odd}) == space.schedules[0]
    assert encode(space, "with", PARAMS, {})["schedule"] == space.schedules[0].label
