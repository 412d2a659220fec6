"""Kind and schedule of each trial, from the wire to the weights that it ends with."""

import pytest
import torch
from torch import Tensor, nn

from dropt.spec.inspection import Inspection, Kind, Site
from dropt.spec.protocol import TrialAssignment, TrialParams
from dropt.spec.space import Dropout, Schedule
from dropt_trainer.fused.pack import Pack
from dropt_trainer.fused.slots import planned_rates
from dropt_trainer.models import build
from dropt_trainer.worker.assignments import ports_of, slot_trial
from dropt_trainer.worker.ends import Unsupported

SITE = "features.1:out"
EPOCHS, STEPS = 4, 3
LATE = Schedule.model_validate({"name": "late", "from": 1})
TRIALS = {
    0: Dropout(kind="channel", rate=0.4),
    1: Dropout(kind="element", rate=0.4),
    2: Dropout(kind="element", rate=0.4, schedule=Schedule(name="early", until=2)),
    3: Dropout(kind="channel", rate=0.4, schedule=LATE),
}  # fmt: skip


def inspection() -> Inspection:
    site = Site(
        site=SITE, layer="Conv2d", layer_kind="conv", role="conv", kinds=("channel", "element"),
        shape=(3, 6, 6), depth=0.5, recommended=True,
    )  # fmt: skip
    return Inspection(fingerprint="51ab", parameters=1, output_layers=("head",), sites=(site,))


def factory(seed: int) -> nn.Module:
    args = {"channels": [3], "hidden": 8}
    return build("cnn", args, input_shape=(6, 6), n_outputs=3, seed=seed)


def trained(dropouts: dict[int, Dropout], kinds: tuple[Kind, ...]) -> list[dict[str, Tensor]]:
    """The weights of trials that train as one pack, whose site has these kinds."""
    pack = Pack(
        factory, ports_of({SITE: kinds}, inspection()), slots=len(dropouts), optimizer="adamw",
        loss="cross_entropy", precision="float64",
    )  # fmt: skip
    trials = []
    for slot, (seed, dropout) in enumerate(dropouts.items()):
        asked = TrialAssignment(
            id=f"trl_{seed}", arm="with", number=seed, attempt=1, seed=seed, epochs=EPOCHS,
            params=TrialParams(lr=0.01), sites={SITE: dropout},
        )  # fmt: skip
        trials.append(slot_trial(asked, patience=None))
        pack.load(slot, trials[-1])
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, 6, 6, generator=generator, dtype=torch.float64)
    y = torch.arange(16) % 3
    for epoch in range(1, EPOCHS + 1):
        plans = [planned_rates(one, pack.ports, epoch=epoch, n_steps=STEPS) for one in trials]
        for rates in torch.stack(plans, dim=1):
            n = len(dropouts)
            pack.step(x.expand(n, *x.shape), y.expand(n, *y.shape), rates=rates)
    return [pack.state_dict(slot) for slot in range(len(dropouts))]


def test_trials_of_one_pack_have_kinds_and_schedules_of_their_own() -> None:
    """Together with two columns at the site, and alone with the one: float64, rounding apart."""
    together = trained(TRIALS, ("channel", "element"))
    for (seed, dropout), weights in zip(TRIALS.items(), together, strict=True):
        (alone,) = trained({seed: dropout}, (dropout.kind,))
        for name, tensor in alone.items():
            assert torch.allclose(weights[name], tensor, rtol=1e-9, atol=1e-12), (seed, name)


@pytest.mark.parametrize(
    "other",
    [Dropout(kind="element", rate=0.4),
     Dropout(kind="channel", rate=0.4, schedule=Schedule(name="ramp", until=2))],
)  # fmt: skip
def test_kind_and_schedule_change_what_is_trained(other: Dropout) -> None:
    (one,) = trained({0: TRIALS[0]}, ("channel", "element"))
    (two,) = trained({0: other}, ("channel", "element"))
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_a_kind_that_the_site_does_not_take_is_not_supported() -> None:
    with pytest.raises(Unsupported, match="takes channel, element, asked: locked"):
        ports_of({SITE: ("locked",)}, inspection())
