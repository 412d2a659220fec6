"""An instrumented model: what changes, what must not, and the same trial alone and in a pack."""

import copy
import io
import pickle
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.trainer.sites.packs import run, run_pack, stacked
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from dropt_trainer.dropout.kinds import KINDS, apply_kind
from dropt_trainer.dropout.masks import mask_seed, site_key
from dropt_trainer.models import build
from dropt_trainer.sites.instrument import (
    SiteError,
    SitePort,
    instrument,
    set_rates,
    strip,
)

N_CLASSES = 3


class OwnRate(nn.Module):
    """Functional dropout with a rate of its own, in training alone, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.last = nn.Linear(16, N_CLASSES)
        self.drop_rate = 0.3

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        if self.training and self.drop_rate > 0:
            x = F.dropout(F.dropout(x, self.drop_rate), p=self.drop_rate, training=self.training)
        out: Tensor = self.last(x)
        return out


class Loop(nn.Module):
    """One layer that runs three times in a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.last = nn.Linear(8, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = F.relu(self.layer(x))
        out: Tensor = self.last(x)
        return out


def sequential() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 16), nn.BatchNorm1d(16),
        nn.ReLU(), nn.AlphaDropout(0.1), nn.Linear(16, N_CLASSES),
    )  # fmt: skip


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Dropout2d(0.2),
        nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16, N_CLASSES),
    )  # fmt: skip


def small(name: str, **args: object) -> nn.Module:
    return build(name, args, input_shape=(8,), n_outputs=N_CLASSES, seed=3)


MODELS = {
    "mlp": lambda: small("mlp", hidden=[12, 9]),
    "mlp with batch norm": lambda: small("mlp", hidden=[12, 9], batch_norm=True),
    "cnn": lambda: build(
        "cnn", {"channels": [3, 4], "hidden": 6}, input_shape=(16,), n_outputs=N_CLASSES, seed=3
    ),
    "cnn with batch norm": lambda: build(
        "cnn",
        {"channels": [3, 4], "hidden": 6, "batch_norm": True},
        input_shape=(16,),
        n_outputs=N_CLASSES,
        seed=3,
    ),
    "sequential": sequential,
    "convolutional": convolutional,
    "own rate": OwnRate,
    "loop": Loop,
}
PORTS = {
    "mlp": [
        SitePort("layers.0:in", "element"),
        SitePort("layers.1:out", "element"),
        SitePort("layers.3:out", "alpha"),
    ],
    "mlp with batch norm": [
        SitePort("layers.0:in", "element"),
        SitePort("layers.2:out", "path"),
        SitePort("layers.5:out", "element"),
    ],
    "cnn": [
        SitePort("features.0:in", "element"),
        SitePort("features.2:out", "channel"),
        SitePort("head.0:in", "element"),
        SitePort("head.1:out", "element"),
    ],
    "cnn with batch norm": [
        SitePort("features.3:out", "channel"),
        SitePort("head.1:out", "element"),
    ],
    "sequential": [
        SitePort("0:in", "element"),
        SitePort("2:p", "element"),
        SitePort("6:p", "alpha"),
    ],
    "convolutional": [SitePort("3:p", "channel"), SitePort("5:out", "channel")],
    "own rate": [SitePort(":in", "element"), SitePort(":drop_rate", "element", calls=2)],
    "loop": [SitePort("layer:in", "element", calls=3), SitePort("last:in", "element")],
}
ALL = list(MODELS)


def make(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A model with fixed weights, norms randomised so that no branch is dead."""
    generator = torch.Generator().manual_seed(7)
    model = MODELS[name]().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype) * 0.4)
    return model


def rows(name: str, n: int = 6, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    width = 16 if name.startswith("cnn") else 8
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def instrumented(
    name: str, rates: Mapping[str, float] | None = None, dtype: torch.dtype = torch.float32
) -> nn.Module:
    model = make(name, dtype)
    instrument(model, PORTS[name])
    set_rates(model, {port.site: 0.4 for port in PORTS[name]} if rates is None else rates)
    model.get_buffer("_dropt_seed").fill_(mask_seed(5))
    model.get_buffer("_dropt_step").fill_(2)
    return model


def without_own_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        if isinstance(module, OwnRate):
            module.drop_rate = 0.0
    return model


@pytest.mark.parametrize("name", ALL)
def test_state_dict_keeps_its_keys_and_loads_strictly(name: str) -> None:
    bare, model = make(name), instrumented(name)
    assert list(model.state_dict()) == list(bare.state_dict())
    assert [key for key, _ in model.named_modules()] == [key for key, _ in bare.named_modules()]
    model.load_state_dict(bare.state_dict(), strict=True)
    bare.load_state_dict(model.state_dict(), strict=True)


@pytest.mark.parametrize("name", ALL)
def test_evaluation_is_the_bare_model_bit_for_bit(name: str) -> None:
    bare, model = make(name).eval(), instrumented(name).eval()
    x = rows(name)
    assert torch.equal(run(model, x), bare(x))
    assert torch.equal(model(x), bare(x))  # the mode is not needed for it


@pytest.mark.parametrize("name", ALL)
def test_training_at_rate_zero_is_the_model_without_dropout_bit_for_bit(name: str) -> None:
    bare = without_own_dropout(make(name)).train()
    model = instrumented(name, rates={}).train()
    x = rows(name)
    losses = [run(model, x).square().mean(), bare(x).square().mean()]
    gradients = [
        torch.autograd.grad(loss, list(m.parameters()))
        for loss, m in zip(losses, (model, bare), strict=True)
    ]
    assert torch.equal(*losses)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), bare.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("name", ALL)
def test_every_site_alone_changes_the_training_output(name: str) -> None:
    x = rows(name)
    without = run(instrumented(name, rates={}).train(), x)
    for port in PORTS[name]:
        assert not torch.equal(run(instrumented(name, {port.site: 0.5}).train(), x), without)


def test_hook_sites_apply_their_kind_where_they_say() -> None:
    """Against the layers called one by one, with dropout between them by hand."""
    name = "cnn"
    model, bare, x = instrumented(name).train(), make(name), rows(name)
    features, head = bare.get_submodule("features"), bare.get_submodule("head")
    assert isinstance(features, nn.Sequential)
    assert isinstance(head, nn.Sequential)

    def at(x: Tensor, site: str, kind: str) -> Tensor:
        seed, step = torch.tensor(mask_seed(5)), torch.tensor(2, dtype=torch.int32)
        return apply_kind(x, kind, torch.tensor(0.4), seed, step, site=site_key(site))

    y = at(x.reshape(-1, 1, 4, 4), "features.0:in", "element")
    y = at(features[2](features[1](features[0](y))), "features.2:out", "channel")
    y = features[3:](y).flatten(1)
    y = at(head[1](head[0](at(y, "head.0:in", "element"))), "head.1:out", "element")
    assert torch.equal(run(model, x), head[2](y))


def test_attribute_sites_take_the_place_of_the_models_own_dropout() -> None:
    model, bare, x = (
        instrumented("sequential").train(),
        make("sequential").train(),
        rows("sequential"),
    )
    assert isinstance(bare, nn.Sequential)

    def at(x: Tensor, site: str, kind: str) -> Tensor:
        seed, step = torch.tensor(mask_seed(5)), torch.tensor(2, dtype=torch.int32)
        return apply_kind(x, kind, torch.tensor(0.4), seed, step, site=site_key(site))

    y = at(bare[:2](at(x, "0:in", "element")), "2:p", "element")
    y = bare[7](at(bare[3:6](y), "6:p", "alpha"))
    assert torch.equal(run(model, x), y)


def test_calls_of_an_attribute_site_have_masks_of_their_own() -> None:
    name = "own rate"
    model, bare = instrumented(name, {":drop_rate": 0.4}).train(), make(name)
    seed, step = torch.tensor(mask_seed(5)), torch.tensor(2, dtype=torch.int32)
    y = F.relu(bare.get_submodule("first")(rows(name)))
    for call in range(2):
        site = site_key(":drop_rate")
        y = apply_kind(y, "element", torch.tensor(0.4), seed, step, site=site, call=call)
    assert torch.equal(run(model, rows(name)), bare.get_submodule("last")(y))


@pytest.mark.parametrize("n_slots", [2, 5])
@pytest.mark.parametrize("name", ALL)
def test_slots_of_a_pack_equal_the_trials_alone(name: str, n_slots: int) -> None:
    """Outputs and gradients in float64 (tier C, 1e-12), per-slot rates, seeds, steps and rows."""
    dtype, ports = torch.float64, PORTS[name]
    model = instrumented(name, dtype=dtype).train()
    params, buffers = stacked(model, n_slots)
    generator = torch.Generator().manual_seed(n_slots)
    rates = torch.rand(n_slots, len(ports), generator=generator) * 0.8
    rates[0] = 0.0
    buffers["_dropt_rates"] = rates
    buffers["_dropt_seed"] = torch.tensor([mask_seed(k) for k in range(n_slots)])
    buffers["_dropt_step"] = torch.arange(n_slots, dtype=torch.int32) * 3
    for value in params.values():
        value.requires_grad_()
    x = torch.stack([rows(name, dtype=dtype, seed=k) for k in range(n_slots)])
    outputs = run_pack(model, params, buffers, x)
    gradients = torch.autograd.grad(outputs.square().mean((1, 2)).sum(), list(params.values()))
    for k in range(n_slots):
        alone = make(name, dtype).train()
        instrument(alone, ports)
        set_rates(alone, {p.site: float(r) for p, r in zip(ports, rates[k], strict=True)})
        alone.get_buffer("_dropt_seed").fill_(mask_seed(k))
        alone.get_buffer("_dropt_step").fill_(3 * k)
        output = run(alone, x[k])
        torch.testing.assert_close(outputs[k], output, rtol=1e-12, atol=1e-13)
        expected = torch.autograd.grad(output.square().mean(), list(alone.parameters()))
        for mine, theirs in zip(gradients, expected, strict=True):
            torch.testing.assert_close(mine[k], theirs, rtol=1e-10, atol=1e-13)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_any_subset_of_sites_at_any_rates_is_the_same_in_a_pack(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["mlp", "sequential", "loop"]))
    ports = data.draw(st.lists(st.sampled_from(PORTS[name]), unique=True))
    rates = data.draw(st.lists(st.floats(0, 0.95), min_size=len(ports), max_size=len(ports)))
    model = make(name, torch.float64).train()
    instrument(model, ports)
    set_rates(model, {p.site: r for p, r in zip(ports, rates, strict=True)})
    x = rows(name, dtype=torch.float64)
    params, buffers = stacked(model, 2)
    outputs = run_pack(model, params, buffers, torch.stack([x, x]))
    alone = run(model, x)
    torch.testing.assert_close(outputs, torch.stack([alone, alone]), rtol=1e-12, atol=1e-13)


def test_masks_of_a_slot_are_bitwise_those_of_the_trial_alone() -> None:
    model = nn.Sequential(nn.Identity(), nn.Dropout(0.1))
    ports = [SitePort("0:out", "element"), SitePort("1:p", "element")]
    instrument(model.train(), ports)
    ones, n_slots = torch.ones(16, 4, 50), 16
    seeds = torch.tensor([mask_seed(k) for k in range(n_slots)])
    buffers = {
        "_dropt_rates": torch.linspace(0, 0.9, n_slots)[:, None].repeat(1, 2),
        "_dropt_seed": seeds,
        "_dropt_step": torch.arange(n_slots, dtype=torch.int32),
    }
    pack = run_pack(model, {}, buffers, ones)
    for k in range(n_slots):
        for key, value in buffers.items():
            model.get_buffer(key).copy_(value[k])
        assert torch.equal(pack[k], run(model, ones[k]))


@pytest.mark.parametrize("name", ALL)
def test_copies_and_pickles_stay_whole_and_independent(name: str) -> None:
    model, x = instrumented(name).train(), rows(name)
    expected = run(model, x)
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    copies = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(stream, weights_only=False),
    ]
    for twin in copies:
        assert torch.equal(run(twin, x), expected)
        set_rates(twin, {})
        assert not torch.equal(run(twin, x), expected)
        strip(twin)
        assert not any(hasattr(module, "_dropt") for module in twin.modules())
        assert not any(
            module._forward_hooks or module._forward_pre_hooks for module in twin.modules()
        )
    assert torch.equal(run(model, x), expected)


def snapshot(model: nn.Module) -> dict[str, dict[str, object]]:
    """Everything that modules hold, tensors aside."""
    return {
        path: {
            key: dict(value) if key.startswith("_") and isinstance(value, dict) else value
            for key, value in vars(module).items()
            if key not in ("_parameters", "_buffers")
        }
        | {"buffers": list(module._buffers)}
        for path, module in model.named_modules()
    }


@pytest.mark.parametrize("name", ALL)
def test_strip_leaves_nothing(name: str) -> None:
    model = make(name)
    before = snapshot(model)
    instrument(model, PORTS[name])
    run(model.train(), rows(name))
    strip(model)
    assert snapshot(model) == before
    instrument(model, PORTS[name])  # and it can be done again


def test_dropout_that_no_port_names_is_off_and_comes_back() -> None:
    model = nn.Sequential(
        nn.Linear(8, 8),
        nn.Dropout(0.5),
        nn.LSTM(8, 8, 2, dropout=0.4),
        nn.MultiheadAttention(8, 2, 0.3),
    )
    instrument(model, [SitePort("0:in", "element")])
    values = [vars(model[1])["p"], vars(model[2])["dropout"], vars(model[3])["dropout"]]
    assert values == [0.0, 0.0, 0.0]
    strip(model)
    values = [vars(model[1])["p"], vars(model[2])["dropout"], vars(model[3])["dropout"]]
    assert values == [0.5, 0.4, 0.3]


def test_calls_of_a_forward_have_masks_of_their_own_and_restart_with_the_next() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.act(x), self.act(x)])

    model, ones = Twice().train(), torch.ones(4, 100)
    instrument(model, [SitePort("act:out", "element", calls=2)])
    set_rates(model, {"act:out": 0.5})
    first, second = run(model, ones), run(model, ones)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first, second)


def test_a_failed_forward_does_not_shift_the_calls_of_the_next() -> None:
    model, x = instrumented("loop").train(), rows("loop")
    expected = run(model, x)
    handle = model.get_submodule("last").register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(model, x)
    handle.remove()
    assert torch.equal(run(model, x), expected)


def test_two_kinds_of_one_site_are_two_columns() -> None:
    model = nn.Sequential(nn.Identity(), nn.Dropout(0.5)).train()
    ports = [SitePort(s, k) for s in ("0:out", "1:p") for k in ("element", "path")]
    instrument(model, ports)
    ones = torch.ones(40, 6)
    with pytest.raises(SiteError, match="several kinds"):
        set_rates(model, {"0:out": 0.5})
    for column in (1, 3):
        model.get_buffer("_dropt_rates").zero_()[column] = 0.5
        y = run(model, ones)
        assert torch.equal(y, y[:, :1].expand_as(y))
        assert set(y.flatten().tolist()) == {0.0, 2.0}


def test_input_by_name_and_output_in_a_tuple_are_reached() -> None:
    class Pair(nn.Module):
        def forward(self, value: Tensor) -> tuple[Tensor, str]:
            return value, "kept"

    class Caller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def forward(self, x: Tensor) -> tuple[Tensor, str]:
            out: tuple[Tensor, str] = self.pair(value=x)
            return out

    for port in ("in", "out"):
        model = Caller().train()
        instrument(model, [SitePort(f"pair:{port}", "element")])
        set_rates(model, {f"pair:{port}": 0.5})
        value, text = model(torch.ones(4, 50))
        assert text == "kept"
        assert set(value.flatten().tolist()) == {0.0, 2.0}


def test_buffers_are_on_the_root_and_not_persistent() -> None:
    model = instrumented("mlp")
    kinds = {key: (value.dtype, tuple(value.shape)) for key, value in model.named_buffers()}
    assert kinds == {
        "_dropt_rates": (torch.float32, (3,)),
        "_dropt_seed": (torch.int64, ()),
        "_dropt_step": (torch.int32, ()),
    }


def test_a_model_converted_to_float64_keeps_its_masks() -> None:
    x = rows("mlp").double()
    expected = make("mlp").double().train()
    instrument(expected, PORTS["mlp"])
    set_rates(expected, {"layers.1:out": 0.4})
    model = make("mlp").train()
    instrument(model, PORTS["mlp"])
    set_rates(model, {"layers.1:out": 0.4})
    model = model.double()
    assert model.get_buffer("_dropt_rates").dtype == torch.float64
    assert torch.equal(run(model, x), run(expected, x))


def test_random_operation_that_is_no_site_raises_in_a_pack() -> None:
    class HardCoded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.layer(x), 0.5, self.training)

    model = HardCoded().train()
    instrument(model, [SitePort("layer:in", "element")])
    params, buffers = stacked(model, 2)
    with pytest.raises(RuntimeError, match="randomness"):
        run_pack(
            model,
            params,
            buffers,
            torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)),
        )


@pytest.mark.parametrize("functional", [False, True])
def test_padding_row_of_an_embedding_gets_no_gradient_in_any_slot(functional: bool) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.ones(5, 4))
            self.embedding = nn.Embedding(5, 4, padding_idx=-1)

        def forward(self, x: Tensor) -> Tensor:
            if functional:
                return F.embedding(x, self.table, padding_idx=4).square().sum()
            return self.embedding(x).square().sum()  # type: ignore[no-any-return]

    model = Words()
    with torch.no_grad():
        model.embedding.weight.fill_(1.0)
    instrument(model, [])
    params, buffers = stacked(model, 3)
    for value in params.values():
        value.requires_grad_()
    tokens = torch.tensor([[4, 1, 4, 2]] * 3)
    key = "table" if functional else "embedding.weight"
    losses = run_pack(model, params, buffers, tokens)
    (gradient,) = torch.autograd.grad(losses.sum(), [params[key]])
    assert losses.tolist() == [16.0] * 3
    assert torch.equal(gradient[:, 4], torch.zeros(3, 4))
    assert torch.equal(gradient[:, 1], torch.full((3, 4), 2.0))


@pytest.mark.parametrize(
    ("ports", "message"),
    [
        ([SitePort("layers.9:out", "element")], "no such module.*layers"),
        ([SitePort("layers.0", "element")], "no such module"),
        ([SitePort("layers.1:out", "rows")], "no kind 'rows', but element"),
        ([SitePort("layers.1:out", "element")] * 2, "named twice"),
        ([SitePort("layers.1:p", "element")], "ReLU has no rate 'p'"),
        ([SitePort("layers.1:training", "element")], "no rate 'training'"),
        ([SitePort("layers.1:out", "element"), SitePort("x:out", "element")], "no such module"),
    ],
)
def test_ports_that_cannot_be_are_refused_and_nothing_is_changed(
    ports: list[SitePort], message: str
) -> None:
    model = make("mlp")
    before = snapshot(model)
    with pytest.raises(SiteError, match=message):
        instrument(model, ports)
    assert snapshot(model) == before


def test_a_recurrent_layer_alone_has_nothing_to_drop_between() -> None:
    with pytest.raises(SiteError, match=r"'0:dropout': one layer only"):
        instrument(nn.Sequential(nn.LSTM(4, 4)), [SitePort("0:dropout", "element")])


def test_instrumenting_twice_and_stripping_a_bare_model_are_refused() -> None:
    model = instrumented("mlp")
    with pytest.raises(SiteError, match="strip it first"):
        instrument(model, [])
    strip(model)
    with pytest.raises(SiteError, match="not instrumented"):
        strip(model)


@pytest.mark.parametrize("rate", [1.0, -0.1, float("nan"), float("inf")])
def test_rates_outside_their_range_are_refused(rate: float) -> None:
    with pytest.raises(SiteError, match=r"not in \[0, 1\)"):
        set_rates(instrumented("mlp"), {"layers.1:out": rate})


def test_rates_of_unknown_sites_are_refused() -> None:
    with pytest.raises(SiteError, match=r"has no port here; instrumented are: layers\.0:in"):
        set_rates(instrumented("mlp"), {"layers.2:out": 0.1})


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_on_a_tensor_of_integers_is_refused(kind: str) -> None:
    model = nn.Sequential(nn.Identity()).train()
    instrument(model, [SitePort("0:in", kind, time_dim=1)])
    with pytest.raises(SiteError, match=r"floating-point tensor, not torch.int64 tensor"):
        model(torch.ones(2, 3, 4, dtype=torch.int64))
