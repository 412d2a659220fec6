import pytest
from tests.factories import PROJECT, site
from tests.service.conftest import Done

from dropt.errors import InvalidRequest
from dropt.jobs import configs, lists
from dropt.spec.protocol import TrialParams
from dropt.spec.results import Configuration, SiteRead
from dropt.spec.space import Layout, Schedule, Space


def test_placement_is_the_recommended_configuration(done: Done) -> None:
    best = lists.best(done.service, done.job.id, project=PROJECT)
    found, revision = configs.placement(done.service, done.job.id, project=PROJECT)
    assert revision == done.job.revision
    assert found.fingerprint == "51ab"
    assert found.source == {"job": done.job.id, "trial": best.recommended.trial}
    wanted = {one.site: one.rate for one in best.recommended.sites if one.rate > 0}
    assert {name: each.rate for name, each in found.sites.items()} == wanted


def test_arm_can_be_chosen_and_an_unknown_one_is_refused(done: Done) -> None:
    def of(arm: str) -> dict[str, float]:
        found, _ = configs.placement(done.service, done.job.id, project=PROJECT, arm=arm)
        return {name: each.rate for name, each in found.sites.items()}

    assert of("without") == {}
    assert of("with")
    assert all(rate > 0 for rate in of("with").values())
    with pytest.raises(InvalidRequest) as refused:
        of("widht")
    assert refused.value.errors[0].pointer == "?arm"
    text = configs.snippet(done.service, done.job.id, project=PROJECT, arm="with")
    assert text.startswith(f"# mlp on digits, arm 'with' of {done.job.id}.\n")
    assert all(f'"{name.rpartition(":")[0]}"' in text for name in of("with"))


def test_dropout_of_the_model_itself_is_off_where_it_is_not_used() -> None:
    own = site("drop:p").model_copy(update={"existing_rate": 0.5})
    locked = site("rnn:dropout", role="rnn_inter").model_copy(
        update={"existing_rate": 0.1, "kinds": ("locked",), "batch_dim": 1, "time_dim": 0}
    )
    space = Space(fingerprint="f", sites=(own, locked, site("a:out")), groups=(), also={})
    found = Configuration(
        arm="with", trial="trl_1", value=0.1, other=TrialParams(lr=0.1),
        sites=(
            SiteRead(site="rnn:dropout", layer="", kind="locked", units=None, rate=0.3,
                     schedule=Schedule(name="early", until=3)),
            SiteRead(site="a:out", layer="", kind="element", units=None, rate=0.0),
        ),
    )  # fmt: skip
    placement = configs.placement_of(found, space, "job_1")
    assert {name: each.rate for name, each in placement.sites.items()} == {
        "drop:p": 0.0, "rnn:dropout": 0.3,
    }  # fmt: skip
    assert placement.sites["rnn:dropout"].schedule == Schedule(name="early", until=3)
    assert placement.layouts == {"rnn:dropout": Layout(batch_dim=1, time_dim=0)}
    assert configs.own_kinds(space.sites) == {"drop:p": "element", "rnn:dropout": "element"}
