import pytest
from pydantic import ValidationError
from tests.service.conftest import Done

from dropt.spec.space import Dropout, Group, Placement, Range, Schedule, SiteChoice, Space


def test_space_reads_back_as_itself(done: Done) -> None:
    assert done.job.space is not None
    assert (
        Space.model_validate_json(done.job.space.model_dump_json(by_alias=True)) == done.job.space
    )


def test_schedule_is_written_as_users_write_it() -> None:
    schedule = Schedule.model_validate({"name": "late", "from": 3})
    assert schedule.start == 3
    assert schedule.model_dump(by_alias=True)["from"] == 3


def test_placement_names_its_schema() -> None:
    placement = Placement(fingerprint="51ab", sites={"a": Dropout(rate=0.2)})
    assert placement.model_dump(by_alias=True)["schema"] == "dropt-placement/1"


@pytest.mark.parametrize("rate", [-0.01, 1.0, 1.2, float("nan")])
def test_rate_is_a_probability_below_one(rate: float) -> None:
    with pytest.raises(ValidationError):
        Dropout(rate=rate)


def test_range_that_is_no_range_says_what_came() -> None:
    with pytest.raises(ValidationError, match=r"low must be below high, received 2.0 and 1.0"):
        Range(low=2, high=1)
    with pytest.raises(ValidationError, match=r"needs low above 0, received 0.0"):
        Range(low=0, high=1, log=True)


def test_rate_of_a_site_says_what_came() -> None:
    with pytest.raises(ValidationError, match=r"received \[0.3, 0.1\]"):
        SiteChoice(match="a", rate=(0.3, 0.1))


@pytest.mark.parametrize("rate", [1.0, 0.96, -0.1])
def test_fixed_rate_of_a_site_is_bounded_as_a_range_is(rate: float) -> None:
    with pytest.raises(ValidationError):
        SiteChoice(match="a", rate=rate)
    assert SiteChoice(match="a", rate=0.95).rate == 0.95


def test_group_of_an_older_version_had_one_kind() -> None:
    stored = {
        "group": "a", "sites": ["a"], "kind": "channel", "low": 0.05, "high": 0.3, "step": 0.05,
        "zero_codes": 3, "start": 0.1,
    }  # fmt: skip
    group = Group.model_validate(stored)
    assert group.kinds == ("channel",)
    assert group.kind == "channel"
    assert (group.profile, group.is_fixed) == ("constant", False)


@pytest.mark.parametrize(
    ("schedule", "label"),
    [({"name": "constant"}, "constant"), ({"name": "early", "until": 6.75}, "early/6.75"),
     ({"name": "late", "from": 9}, "late/9"), ({"name": "ramp", "until": 13.5}, "ramp/13.5")],
)  # fmt: skip
def test_schedule_has_a_label_of_name_and_epoch(schedule: dict[str, object], label: str) -> None:
    assert Schedule.model_validate(schedule).label == label
