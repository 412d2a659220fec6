"""A placement taken to one's own model: by hooks, by lines of plain PyTorch, and out again."""

import copy
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from dropt.spec.space import Layout, Placement
from dropt_trainer.dropout.masks import mask_seed
from dropt_trainer.sites.applied import Applied
from dropt_trainer.sites.export import apply, diff, set_epoch, snippet, strip
from dropt_trainer.sites.fingerprint import fingerprint
from dropt_trainer.sites.instrument import instrument, set_rates, site_mode
from dropt_trainer.sites.ports import SEED, STATE, STEP, SiteError, SitePort

N_FORWARDS = 200
MOST_SE = 4.0  # per keep rate: a false alarm in 1 of 16,000, and seeds are fixed


class Functional(nn.Module):
    """Dropout by a function and an attribute of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.drop_rate = nn.Linear(6, 16), nn.Linear(16, 3), 0.5

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.first(x)) + 0.01
        out: Tensor = self.second(F.dropout(hidden, self.drop_rate, self.training))
        return out


class Attention(nn.Module):
    """A classifier over torch's own encoder, time first."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.classes = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classes(self.encoder(self.embedding(x.T)).mean(0))
        return out


class Recurrent(nn.Module):
    """A classifier over a two-layer LSTM, batch first."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 8, num_layers=2, batch_first=True, dropout=0.2)
        self.classes = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classes(self.lstm(x)[0][:, -1])
        return out


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 16),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(16, 16),
        nn.SELU(),
        nn.Linear(16, 3),
    )


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Dropout(0.3),
        nn.Flatten(), nn.Linear(8 * 4 * 4, 3),
    )  # fmt: skip


def site(rate: float, kind: str = "element", **schedule: Any) -> dict[str, Any]:
    return {"rate": rate, "kind": kind, "schedule": schedule or {"name": "constant"}}


Case = tuple[Callable[[], nn.Module], Callable[[], Tensor], dict[str, Any], dict[str, Any]]
CASES: dict[str, Case] = {
    "mlp": (
        mlp,
        lambda: torch.rand(32, 6) + 0.1,
        {"0:in": site(0.2), "2:p": site(0.35), "4:out": site(0.25, "alpha")},
        {},
    ),
    "cnn": (
        cnn,
        lambda: torch.rand(16, 1, 8, 8) + 0.1,
        {":in": site(0.1), "1:out": site(0.3, "channel"), "4:p": site(0.4, "channel")},
        {},
    ),
    "functional": (
        Functional,
        lambda: torch.rand(32, 6) + 0.1,
        {"first:in": site(0.15), ":drop_rate": site(0.45)},
        {},
    ),
    "attention": (
        Attention,
        lambda: torch.randint(11, (8, 7)),
        {
            "embedding:out": site(0.2, "token"),
            "encoder.layers.0.self_attn:dropout": site(0.1),
            "encoder.layers.0.dropout1:p": site(0.3, "path"),
            "encoder.layers.1.linear1:in": site(0.25, "locked"),
        },
        {"encoder.layers.0.dropout1:p": {"batch_dim": 1, "time_dim": 0},
         "encoder.layers.1.linear1:in": {"batch_dim": 1, "time_dim": 0}},
    ),
    "recurrent": (
        Recurrent,
        lambda: torch.rand(16, 6, 5) + 0.1,
        {
            "lstm:in": site(0.2, "locked"), "lstm:dropout": site(0.3),
            "lstm:out": site(0.4, "locked"),
        },
        {},
    ),
}  # fmt: skip
everywhere = pytest.mark.parametrize("name", CASES)


def built(name: str) -> tuple[nn.Module, Tensor, Placement]:
    factory, inputs, sites, layouts = CASES[name]
    model, x = seeded(factory), seeded(inputs)
    fields = {"fingerprint": fingerprint(model), "sites": sites, "layouts": layouts}
    return model, x, Placement.model_validate(fields)


def mode_stack() -> list[object]:
    """The function modes that are entered now, by torch's own account."""
    stack: list[object] = torch.overrides._get_current_function_mode_stack()  # type: ignore[no-untyped-call]  # torch's
    return stack


def seeded(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return make()


def pasted(model: nn.Module, placement: Placement) -> nn.Module:
    """The model after the lines of the snippet, which know no dropt."""
    text = snippet(model, placement)
    assert "dropt" not in text.replace("dropout", "")
    exec(text, {"model": model})
    return model


def applied(model: nn.Module, placement: Placement) -> nn.Module:
    assert apply(model, placement) == {}
    return model


def keep_rates(model: nn.Module, x: Tensor, sites: list[str], put: Callable[[], object]) -> Any:
    """Shares of non-zero units that stay non-zero, [forwards, sites]; `put` adds the dropout."""
    seen: dict[str, list[Tensor]] = {name: [] for name in sites}
    modules = {name: model.get_submodule(name.rpartition(":")[0]) for name in sites}

    def watch(*, before: bool) -> None:
        for name, module in modules.items():
            port = name.rpartition(":")[2]
            note = seen[name].append
            if port == "in" or (port == "p" and before):
                module.register_forward_pre_hook(lambda m, args, note=note: note(args[0]))
            else:
                module.register_forward_hook(lambda m, a, out, note=note: note(first(out)))

    watch(before=True)
    put()
    watch(before=False)
    model.train()
    shares = []
    for _ in range(N_FORWARDS):
        for notes in seen.values():
            notes.clear()
        with torch.no_grad():
            model(x)
        shares.append([share_kept(*notes) for notes in seen.values()])
    return torch.tensor(shares)


def first(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def share_kept(before: Tensor, after: Tensor) -> float:
    return float(((after == before / 1e9) | (after != 0))[before != 0].double().mean())


def visible(placement: Placement) -> list[str]:
    """Sites whose mask shows in zeros between two hooks."""
    return [
        name
        for name, each in placement.sites.items()
        if name.rpartition(":")[2] in ("in", "out", "p") and each.kind != "alpha"
    ]


@everywhere
def test_snippet_and_apply_evaluate_bitwise_alike(name: str) -> None:
    model, x, placement = built(name)
    by_hooks, by_lines = copy.deepcopy(model), copy.deepcopy(model)
    applied(by_hooks, placement)
    pasted(by_lines, placement)
    expected = model.eval()(x)
    assert torch.equal(by_hooks.eval()(x), expected)
    assert torch.equal(by_lines.eval()(x), expected)


@everywhere
@pytest.mark.parametrize("put", [applied, pasted])
def test_units_are_kept_as_the_placement_says(
    name: str, put: Callable[[nn.Module, Placement], nn.Module]
) -> None:
    model, x, placement = built(name)
    sites = visible(placement)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(1)
        shares = keep_rates(model, x, sites, lambda: put(model, placement))
    errors = shares.std(0) / N_FORWARDS**0.5
    for index, each in enumerate(sites):
        off = abs(float(shares[:, index].mean()) - (1 - placement.sites[each].rate))
        assert off <= MOST_SE * float(errors[index]), each


@everywhere
@pytest.mark.parametrize("put", [applied, pasted])
def test_rates_of_the_model_itself_are_plain_numbers(
    name: str, put: Callable[[nn.Module, Placement], nn.Module]
) -> None:
    model, _, placement = built(name)
    put(model, placement)
    for each, dropout in placement.sites.items():
        path, _, port = each.rpartition(":")
        if port not in ("in", "out"):
            is_own = dropout.kind == "element"
            assert getattr(model.get_submodule(path), port) == (dropout.rate if is_own else 0.0)
    listed = set(placement.sites)
    others = [m for path, m in model.named_modules() if f"{path}:p" not in listed]
    assert all(m.p == 0 for m in others if isinstance(m, nn.Dropout))


@everywhere
def test_keys_stay_and_weights_load_strictly(name: str) -> None:
    model, _, placement = built(name)
    weights = copy.deepcopy(model.state_dict())
    for put in (applied, pasted):
        twin = put(copy.deepcopy(model), placement)
        assert list(twin.state_dict()) == list(weights)
        twin.load_state_dict(weights, strict=True)


@everywhere
@pytest.mark.parametrize("seed", [None, 3])
def test_strip_leaves_the_model_as_it_was(name: str, seed: int | None) -> None:
    model, _, placement = built(name)
    before = {path: dict(vars(module)) for path, module in model.named_modules()}
    apply(model, placement, seed=seed)
    strip(model)
    for path, module in model.named_modules():
        assert vars(module).keys() == before[path].keys()
        for attribute in ("p", "dropout", "drop_rate"):
            assert vars(module).get(attribute) == before[path].get(attribute)
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert dict(model.named_buffers()) == {}
    with pytest.raises(SiteError, match="not instrumented"):
        strip(model)


@everywhere
@pytest.mark.parametrize("seed", [None, 3])
def test_several_forwards_may_come_before_one_way_back(name: str, seed: int | None) -> None:
    model, x, placement = built(name)
    apply(model, placement, seed=seed)
    model.train()
    first, second = model(x), model(x)
    assert not torch.equal(first, second)  # other masks
    (first - second).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@everywhere
@pytest.mark.parametrize("seed", [None, 3])
def test_applied_model_trains_pickles_and_copies(name: str, seed: int | None) -> None:
    model, x, placement = built(name)
    apply(model, placement, seed=seed)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    before = [p.detach().clone() for p in twin.parameters()]
    twin.train()
    for _ in range(2):
        optimizer.zero_grad()
        twin(x).square().mean().backward()
        optimizer.step()
    assert all(torch.isfinite(p).all() for p in twin.parameters())
    assert all(not torch.equal(a, b) for a, b in zip(before, twin.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@everywhere
def test_seed_draws_the_masks_of_the_trial(name: str) -> None:
    model, x, placement = built(name)
    trained = copy.deepcopy(model)
    ports = []
    for each, dropout in placement.sites.items():
        layout = placement.layouts.get(each, Layout())
        dims = {"batch_dim": layout.batch_dim, "time_dim": layout.time_dim}
        ports.append(SitePort(each, dropout.kind, **dims))
    instrument(trained, ports)
    set_rates(trained, {each: dropout.rate for each, dropout in placement.sites.items()})
    trained.get_buffer(SEED).fill_(mask_seed(77))
    apply(model, placement, seed=77)
    for step in range(3):
        trained.get_buffer(STEP).fill_(step)
        with site_mode(trained.train(), vmapped=False):
            expected = trained(x)
        assert torch.equal(model.train()(x), expected), step
        model.eval()(x)


def test_locked_dropout_between_layers_needs_counted_masks() -> None:
    model, x, placement = built("recurrent")
    fields = placement.model_dump(by_alias=True)
    fields["sites"] = {"lstm:dropout": site(0.5, "locked")}
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(5)
        apply(model, fields)
    first, second = model.train()(x), model(x)
    assert not torch.equal(first, second)
    strip(model)
    assert model.get_submodule("lstm").dropout == 0.2
    assert "nn" not in snippet(model, fields)
    assert "dropped by kind 'locked' here, plain PyTorch by 'element'" in snippet(model, fields)


def test_seeded_model_leaves_the_function_mode_when_its_forward_fails() -> None:
    model, x, placement = built("recurrent")
    apply(model, placement, seed=1)
    with pytest.raises(RuntimeError):
        model.train()(torch.rand(2, 3, 4))
    assert mode_stack() == []
    model(x)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "cnn", "functional"])
def test_applied_model_compiles_into_one_graph_for_each_set_of_rates(name: str) -> None:
    model, x, placement = built(name)
    apply(model, placement)
    graphs = []

    def count(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model.train(), backend=count, fullgraph=True)
    for _ in range(3):
        compiled(x).sum().backward()
    assert len(graphs) == 1
    torch.compiler.reset()


def test_schedules_set_the_rates_of_each_epoch() -> None:
    model, _, placement = built("mlp")
    fields = placement.model_dump(by_alias=True)
    fields["sites"] = {
        "2:p": site(0.4, name="early", until=4.0),
        "3:in": site(0.2, name="ramp", until=2.0),
        "4:out": site(0.3, "alpha", **{"name": "late", "from": 3.0}),
    }
    apply(model, fields)
    dropout, state = model.get_submodule("2"), getattr(model, STATE)
    assert isinstance(state, Applied)
    rates = []
    for epoch in range(5):
        set_epoch(model, epoch)
        rates.append((dropout.p, state.hooks["3:in"].rate, state.hooks["4:out"].rate))
    assert [rate[0] for rate in rates] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])
    assert [rate[1] for rate in rates] == pytest.approx([0.0, 0.1, 0.2, 0.2, 0.2])
    assert [rate[2] for rate in rates] == pytest.approx([0.0, 0.0, 0.0, 0.3, 0.3])
    strip(model)
    text = snippet(model, fields)
    assert "# Schedule 'early': it falls linearly from this rate to 0 at epoch 4." in text
    assert "# Schedule 'late': it is 0 up to epoch 3, then this rate." in text
    with pytest.raises(SiteError, match="No placement"):
        set_epoch(model, 1)


def test_packed_sequences_drop_in_every_kind_that_fits() -> None:
    lengths = torch.tensor([6, 3, 2])
    packed = nn.utils.rnn.pack_padded_sequence(torch.ones(3, 6, 5), lengths, batch_first=True)
    for kind in ("element", "locked", "path", "token", "alpha"):
        twin = nn.ModuleList([nn.Identity()])
        fields = {"fingerprint": fingerprint(twin), "sites": {"0:in": site(0.5, kind)}}
        apply(twin, fields)
        out = twin[0](packed)
        assert out.data.shape == packed.data.shape
        rows, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
        steps = rows[0]  # the longest example
        if kind in ("locked", "path"):
            assert torch.equal(steps, steps[:1].expand_as(steps))
        if kind in ("path", "token"):
            assert all(len(row.unique()) == 1 for row in steps)


def test_placement_of_another_model_is_refused_or_taken_by_name() -> None:
    _, _, placement = built("mlp")
    other = nn.Sequential(*list(seeded(mlp))[:3], nn.Linear(16, 3))
    with pytest.raises(SiteError, match="by_name=True"):
        apply(other, placement)
    misfits = apply(other, placement, by_name=True)
    assert list(misfits) == ["4:out"]
    assert "no such module" in misfits["4:out"]
    assert other.get_submodule("2").p == 0.35


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("firts:in", "no such module. Near names: first"),
        (":drop_rat", "Functional has no rate 'drop_rat' of its own. Near names: drop_rate"),
        ("first:bias", "Linear has no rate 'bias'"),
        ("first", "no such module"),
    ],
)
def test_unknown_site_changes_nothing_and_names_the_nearest(name: str, message: str) -> None:
    model, _, placement = built("functional")
    fields = placement.model_dump(by_alias=True)
    fields["sites"] = {":drop_rate": site(0.1), name: site(0.2)}
    with pytest.raises(SiteError, match=message):
        apply(model, fields)
    assert model.drop_rate == 0.5
    assert not hasattr(model, "_dropt")


def test_second_placement_needs_a_strip_first() -> None:
    model, _, placement = built("mlp")
    apply(model, placement)
    for use in (apply, diff, snippet):
        with pytest.raises(SiteError, match="strip it first"):
            use(model, placement)
    with pytest.raises(SiteError, match="strip it first"):
        instrument(model, [])


def test_placement_is_read_from_a_dict_or_a_file(tmp_path: Path) -> None:
    model, _, placement = built("mlp")
    text = placement.model_dump_json(by_alias=True)
    path = tmp_path / "best.json"
    path.write_text(text)
    expected = snippet(model, placement)
    for source in (json.loads(text), path, str(path)):
        assert snippet(model, source) == expected
    path.write_text("{")
    with pytest.raises(SiteError, match="no JSON"):
        apply(model, path)
    with pytest.raises(SiteError, match="cannot be read"):
        apply(model, tmp_path / "none.json")
    with pytest.raises(SiteError, match="no placement: sites"):
        apply(model, {"fingerprint": "", "sites": 3})


def test_diff_is_a_table_of_what_was_and_will_be() -> None:
    model, _, placement = built("mlp")
    changes = diff(model, placement)
    assert [tuple(change) for change in changes] == [
        ("0:in", "Linear(6, 16)", "-", "0.2 element"),
        ("2:p", "Dropout", "0.5", "0.35 element"),
        ("4:out", "SELU", "-", "0.25 alpha"),
    ]
    head, first, *_ = str(changes).splitlines()
    assert head.split() == ["site", "layer", "was", "now"]
    assert head.index("was") == first.index("-")


def test_unlisted_dropout_of_torch_modules_is_turned_off_in_diff_and_snippet() -> None:
    model, _, placement = built("recurrent")
    empty = placement.model_copy(update={"sites": {}})
    assert [tuple(change) for change in diff(model, empty)] == [
        ("lstm:dropout", "LSTM", "0.2", "-")
    ]
    assert "model.lstm.dropout = 0.0" in snippet(model, empty)
    apply(model, empty)
    assert model.get_submodule("lstm").dropout == 0.0


def test_code_of_the_documentation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[3] / "docs" / "placement.md").read_text("utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(block, {})
    assert 'model.get_submodule("2").p = 0.35' in capsys.readouterr().out
