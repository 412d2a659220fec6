"""Sites of small models, written by hand with the reason, and models that must come back whole."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from dropt.spec.inspection import Site
from dropt_trainer.losses import cross_entropy, mse
from dropt_trainer.models import build
from dropt_trainer.sites.discover import Discovery, discover
from dropt_trainer.sites.instrument import SiteError, SitePort, instrument, set_rates, site_mode

N_CLASSES = 5


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def look(model: nn.Module, inputs: Tensor | dict[str, Tensor]) -> Discovery:
    n = len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)
    return discover(model, inputs, torch.arange(n) % N_CLASSES, cross_entropy)


def brief(found: Discovery) -> list[tuple[str, str, str]]:
    """Site, role and default kind of each, in order."""
    return [(site.site, site.role, site.kinds[0]) for site in found.sites]


def refused(found: Discovery) -> set[tuple[str, str]]:
    return {(excluded.site, excluded.reason) for excluded in found.excluded}


def by_name(found: Discovery) -> dict[str, Site]:
    return {site.site: site for site in found.sites}


def reference(name: str, **args: object) -> nn.Module:
    return build(name, args, input_shape=(64,), n_outputs=N_CLASSES, seed=1)


def test_mlp_has_its_input_and_what_each_hidden_layer_gives_on() -> None:
    found = look(reference("mlp"), normal(4, 64))
    assert brief(found) == [
        ("layers.0:in", "input", "element"),
        ("layers.1:out", "hidden", "element"),  # behind the activation, not the Linear
        ("layers.3:out", "head", "element"),  # read by the output layer
    ]
    assert found.output_layers == ("layers.4",)
    assert refused(found) == {("layers.4:out", "output_layer")}
    assert found.findings == ()
    site = by_name(found)["layers.1:out"]
    assert (site.layer, site.layer_kind) == ("Linear(64, 128) + ReLU", "dense")
    assert (site.shape, site.calls, site.batch_norm) == ((128,), 1, "none")
    assert [s.depth for s in found.sites] == [0.0, 1 / 3, 2 / 3]
    assert all(s.recommended and s.reason is None for s in found.sites)


def test_mlp_with_batch_norm_keeps_only_the_site_behind_the_last_norm_on() -> None:
    found = look(reference("mlp", batch_norm=True), normal(4, 64))
    assert [(s.site, s.batch_norm, s.recommended) for s in found.sites] == [
        ("layers.0:in", "downstream", False),
        ("layers.2:out", "downstream", False),
        ("layers.5:out", "none", True),
    ]
    assert refused(found) == {
        ("layers.0:out", "before_batch_norm"),
        ("layers.3:out", "before_batch_norm"),
        ("layers.6:out", "output_layer"),
    }
    assert {(f.code, f.site) for f in found.findings} == {
        ("batch-norm-downstream", "layers.0:in"),
        ("batch-norm-downstream", "layers.2:out"),
    }
    assert by_name(found)["layers.5:out"].layer == "Linear(128, 64) + BatchNorm1d + ReLU"


def test_cnn_drops_channels_between_convolutions_and_elements_behind_them() -> None:
    found = look(reference("cnn"), normal(4, 64))
    assert brief(found) == [
        ("features.0:in", "input", "element"),
        ("features.2:out", "conv", "channel"),  # behind the pooling that feeds convolution 2
        ("head.0:in", "hidden", "element"),  # flattened maps: no module gives this tensor
        ("head.1:out", "head", "element"),
    ]
    assert found.output_layers == ("head.2",)
    shapes = [s.shape for s in found.sites]
    assert shapes == [(1, 8, 8), (16, 4, 4), (128,), (64,)]
    assert all(s.recommended for s in found.sites)
    assert by_name(found)["features.2:out"].kinds == ("channel", "element")


def test_cnn_with_batch_norm_keeps_the_dense_sites_on() -> None:
    found = look(reference("cnn", batch_norm=True), normal(4, 64))
    assert [(s.site, s.batch_norm, s.recommended) for s in found.sites] == [
        ("features.0:in", "downstream", False),
        ("features.3:out", "downstream", False),
        ("head.0:in", "none", True),
        ("head.1:out", "none", True),
    ]


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_regression_has_the_sites_of_classification(name: str) -> None:
    model = build(name, {}, input_shape=(64,), n_outputs=1, seed=1)
    found = discover(model, normal(4, 64), normal(4, 1), mse)
    assert brief(found) == brief(look(reference(name), normal(4, 64)))


def test_linear_model_has_its_input_alone() -> None:
    found = look(reference("mlp", hidden=[]), normal(4, 64))
    assert brief(found) == [("layers.0:in", "input", "element")]


def test_selu_layers_offer_alpha_dropout_first() -> None:
    found = look(reference("mlp", activation="selu"), normal(4, 64))
    assert [s.kinds for s in found.sites] == [("element",), *[("alpha", "element")] * 2]


def test_cnn_without_a_dense_layer_ends_in_a_head_site() -> None:
    found = look(reference("cnn", hidden=0), normal(4, 64))
    assert brief(found)[-1] == ("head.0:in", "head", "element")


def test_dropout_modules_are_sites_and_no_second_site_stands_beside_them() -> None:
    model = nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.0), nn.Linear(16, N_CLASSES),
    )  # fmt: skip
    found = look(model, normal(4, 8))
    assert [(s.site, s.role, s.existing_rate) for s in found.sites] == [
        ("0:in", "input", None),
        ("2:p", "hidden", 0.5),
        ("5:p", "head", 0.0),  # a rate of 0 is a site as well
    ]
    covered = {e.site: e.covered_by for e in found.excluded if e.reason == "covered"}
    assert covered == {"1:out": "2:p", "4:out": "5:p"}


class MnistExample(nn.Module):
    """Functional activations and pooling, Dropout2d on maps, log-softmax at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3)
        self.conv2 = nn.Conv2d(8, 16, 3)
        self.drop1 = nn.Dropout2d(0.25)
        self.drop2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(64, 32)
        self.fc2 = nn.Linear(32, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = torch.flatten(self.drop1(F.max_pool2d(x, 2)), 1)
        x = self.drop2(F.relu(self.fc1(x)))
        return F.log_softmax(self.fc2(x), dim=1)


def test_functional_layers_are_seen_and_softmax_is_walked_through() -> None:
    found = look(MnistExample(), normal(3, 1, 8, 8))
    assert brief(found) == [
        ("conv1:in", "input", "element"),
        ("conv2:in", "conv", "channel"),  # F.relu is no module: the reader's port
        ("drop1:p", "conv", "channel"),
        ("drop2:p", "head", "element"),
    ]
    assert found.output_layers == ("fc2",)


def test_one_dropout_module_used_twice_is_one_site_whose_kinds_suit_both_places() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)
            self.dense = nn.Linear(16, 8)
            self.last = nn.Linear(8, N_CLASSES)
            self.drop = nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.drop(F.relu(self.conv(x))).flatten(1)
            out: Tensor = self.last(self.drop(F.relu(self.dense(x))))
            return out

    found = look(Shared(), normal(3, 1, 4, 4))
    assert [(s.site, s.calls, s.kinds) for s in found.sites] == [
        ("conv:in", 1, ("element",)),
        ("drop:p", 2, ("element",)),
    ]


class OwnRate(nn.Module):
    """A rate of its own, asked about before it is used, and only in training."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 16)
        self.last = nn.Linear(16, N_CLASSES)
        self.feature_drop = 0.3

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        if self.training and self.feature_drop > 0:
            x = F.dropout(x, self.feature_drop)
        x = F.relu(self.second(x.unsqueeze(1).squeeze(1)))
        out: Tensor = self.last(x)
        return out


def test_own_rate_attribute_is_found_by_where_it_arrives() -> None:
    found = look(OwnRate(), normal(4, 8))
    assert brief(found) == [
        ("first:in", "input", "element"),
        (":feature_drop", "hidden", "element"),
        ("last:in", "head", "element"),
    ]
    assert ("second:in", "covered") in refused(found)  # views between them change nothing
    assert by_name(found)[":feature_drop"].existing_rate == 0.3


class Block(nn.Module):
    """A residual block whose only ReLU runs twice, with a projection where shapes change."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.down = nn.Conv2d(n_in, n_out, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.down(x))  # type: ignore[no-any-return]


def test_residual_network_offers_branches_and_never_a_shared_relu() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), Block(8, 8, 1), Block(8, 16, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, N_CLASSES),
    )  # fmt: skip
    found = look(model, normal(4, 3, 8, 8))
    assert brief(found) == [
        ("0:in", "input", "element"),
        ("3.conv2:in", "conv", "channel"),  # relu:out would reach the skip path too
        ("3.bn2:out", "branch", "path"),
        ("4.conv1:in", "conv", "channel"),  # the projection reads it too and stays whole
        ("4.conv2:in", "conv", "channel"),
        ("4.bn2:out", "branch", "path"),  # the longer side of a projection shortcut
        ("6:out", "head", "element"),
    ]
    assert ("3.conv1:in", "skip_path") in refused(found)
    assert {s.site for s in found.sites if s.recommended} == {"3.bn2:out", "4.bn2:out", "6:out"}


class ResidualMlp(nn.Module):
    """Pre-activation residual blocks without batch norm."""

    def __init__(self, drop: float | None) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 16)
        self.blocks = nn.ModuleList()
        for _ in range(2):
            block = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
            self.blocks.append(block if drop is None else block.append(nn.Dropout(drop)))
        self.head = nn.Linear(16, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        out: Tensor = self.head(F.relu(x))
        return out


def test_residual_branches_are_named_by_the_whole_branch() -> None:
    found = look(ResidualMlp(None), normal(4, 8))
    assert brief(found) == [
        ("stem:in", "input", "element"),
        ("blocks.0.1:out", "hidden", "element"),
        ("blocks.0:out", "branch", "path"),
        ("blocks.1.1:out", "hidden", "element"),
        ("blocks.1:out", "branch", "path"),
        ("head:in", "head", "element"),
    ]


def test_dropout_at_the_end_of_a_branch_is_the_branch_site() -> None:
    found = look(ResidualMlp(0.1), normal(4, 8))
    assert [s.site for s in found.sites if s.role == "branch"] == ["blocks.0.3:p", "blocks.1.3:p"]
    assert by_name(found)["blocks.0.3:p"].kinds == ("element", "path")
    assert ("blocks.0:out", "covered") in refused(found)


class DropPath(nn.Module):
    """Drops whole branches by code of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.drop_prob = 0.2

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = 1 - self.drop_prob
        return x * (torch.rand(x.shape[0], 1) < keep) / keep


def test_branch_that_the_model_drops_by_its_own_code_gets_no_second_site() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.drop = DropPath()
            self.last = nn.Linear(8, N_CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(x + self.drop(F.relu(self.first(x))))
            return out

    found = look(Residual(), normal(4, 8))
    assert [s.site for s in found.sites] == ["first:in", "last:in"]
    assert [(f.code, f.site) for f in found.findings] == [("dead-dropout", "drop:drop_prob")]


def test_maps_that_enter_a_convolution_as_output_layer_may_fall_whole() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, N_CLASSES, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    found = look(model, normal(4, 1, 6, 6))
    assert [(s.site, s.role, s.kinds) for s in found.sites][1:] == [
        ("1:out", "head", ("element", "channel"))
    ]


class Loop(nn.Module):
    """One layer in a loop whose length depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.layer = nn.Linear(16, 16)
        self.act = nn.ReLU()
        self.last = nn.Linear(16, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        n = 3 if x.shape[0] > 2 else 1
        x = self.act(self.first(x))
        for _ in range(n):
            x = self.act(self.layer(x))
        out: Tensor = self.last(x)
        return out


def test_shared_layer_is_one_site_with_several_calls() -> None:
    found = look(Loop(), normal(4, 8))
    assert [(s.site, s.calls) for s in found.sites] == [
        ("first:in", 1),
        ("layer:in", 3),
        ("last:in", 1),
    ]


class WideAndDeep(nn.Module):
    """Two output layers, summed; the input feeds both."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(8, N_CLASSES)
        self.deep = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, N_CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.wide(x) + self.deep(x)
        return out


def test_summed_heads_are_both_output_layers_and_a_shared_input_is_one_site() -> None:
    found = look(WideAndDeep(), normal(4, 8))
    assert found.output_layers == ("deep.2", "wide")
    assert brief(found) == [(":in", "input", "element"), ("deep.1:out", "head", "element")]


class Tables(nn.Module):
    """Inputs by name, joined; an embedding with padding."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6, padding_idx=0)
        self.left = nn.Linear(4, 8)
        self.right = nn.Linear(6, 8)
        self.last = nn.Linear(16, N_CLASSES)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        right = self.right(self.words(x["words"]).mean(1))
        out: Tensor = self.last(torch.cat([self.left(x["values"]).relu(), right.relu()], dim=1))
        return out


def test_named_inputs_and_embeddings_have_sites_and_tokens_have_none() -> None:
    inputs = {"values": normal(4, 4), "words": torch.arange(24).view(4, 6) % 20}
    found = look(Tables(), inputs)
    assert brief(found) == [
        ("words:out", "embed", "element"),
        ("right:in", "hidden", "element"),  # the mean over positions
        ("left:in", "input", "element"),
        ("last:in", "head", "element"),
    ]
    assert by_name(found)["words:out"].kinds == ("element", "token")
    assert [f.code for f in found.findings] == ["token-input"]


class RawWeights(nn.Module):
    """The output layer is a product with a raw parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.weight = nn.Parameter(torch.ones(16, N_CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.first(x)) @ self.weight


def test_output_layer_without_a_module_is_reported_by_its_function() -> None:
    found = look(RawWeights(), normal(4, 8))
    assert found.output_layers == ("<functional MmBackward0>",)
    assert brief(found) == [("first:in", "input", "element")]


class Headless(nn.Module):
    """Predicts a correction of its input: the model ends in a residual join."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(N_CLASSES, 16)
        self.second = nn.Linear(16, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(F.relu(self.first(x)))
        return out


def test_join_at_the_output_has_no_branch_site() -> None:
    found = look(Headless(), normal(4, N_CLASSES))
    assert found.output_layers == ()
    assert [s.site for s in found.sites] == ["first:in", "second:in"]


def test_flatten_and_identity_modules_change_no_role() -> None:
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(8, 16),
        nn.Identity(),
        nn.ReLU(),
        nn.Identity(),
        nn.Linear(16, N_CLASSES),
    )
    found = look(model, normal(4, 2, 4))
    assert brief(found) == [("0:out", "input", "element"), ("3:out", "head", "element")]


def test_input_behind_a_batch_norm_is_still_the_input() -> None:
    model = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, N_CLASSES))
    found = look(model, normal(4, 8))
    assert brief(found)[0] == ("0:out", "input", "element")


def test_layers_with_weights_of_their_own_class_are_weight_layers() -> None:
    class OwnLinear(nn.Module):
        def __init__(self, n_in: int, n_out: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(n_in, n_out))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight

    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(8, 16)),
        nn.GELU(),
        OwnLinear(16, N_CLASSES),
    )
    found = look(model, normal(4, 8))
    assert [s.site for s in found.sites] == ["0:in", "1:out"]
    assert found.output_layers == ("2",)


class Recurrent(nn.Module):
    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, 16, 2, batch_first=batch_first, dropout=0.2)
        self.dense = nn.Linear(16, 16)
        self.last = nn.Linear(16, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if not self.rnn.batch_first:
            x = x.transpose(0, 1)
        steps = self.rnn(x)[0]
        state = steps[:, -1] if self.rnn.batch_first else steps[-1]
        out: Tensor = self.last(self.dense(state).relu())
        return out


@pytest.mark.parametrize("batch_first", [True, False])
def test_recurrent_layers_have_sites_before_inside_and_behind(batch_first: bool) -> None:
    found = look(Recurrent(batch_first=batch_first), normal(4, 5, 8))
    assert brief(found) == [
        ("rnn:in", "rnn_in", "locked"),
        ("rnn:dropout", "rnn_inter", "locked"),
        ("rnn:out", "rnn_out", "locked"),  # what dense reads is its last step
        ("last:in", "head", "element"),
    ]
    layouts = [(s.shape, s.batch_dim, s.time_dim) for s in found.sites][:3]
    batch_dim, time_dim = (0, 1) if batch_first else (1, 0)
    assert layouts == [
        ((5, 8), batch_dim, time_dim),
        ((5, 16), batch_dim, time_dim),
        ((5, 16), batch_dim, time_dim),
    ]
    assert by_name(found)["rnn:dropout"].existing_rate == 0.2


def test_packed_sequences_have_the_ports_of_their_layer() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(20, 6)
            self.rnn = nn.GRU(6, 8, batch_first=True)
            self.last = nn.Linear(8, N_CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            lengths = torch.tensor([3, 2, 3, 1] + [1] * (len(x) - 4))
            packed = nn.utils.rnn.pack_padded_sequence(
                self.words(x), lengths, batch_first=True, enforce_sorted=False
            )
            steps, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
            out: Tensor = self.last(steps)
            return out.mean(1)

    found = look(Packed(), torch.arange(12).view(4, 3))
    assert brief(found) == [
        ("rnn:in", "rnn_in", "locked"),
        ("rnn:out", "rnn_out", "locked"),
        ("last:in", "head", "element"),  # padded again
    ]


def test_embedding_that_shifts_attention_scores_is_no_site() -> None:
    class Biased(nn.Module):
        def __init__(self, *, fused: bool) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(20, 8), nn.Embedding(9, 1)
            self.qkv, self.last = nn.Linear(8, 24), nn.Linear(8, N_CLASSES)
            self.fused = fused

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(self.words(x)).chunk(3, -1)
            steps = torch.arange(x.shape[1])
            bias = self.places(steps[:, None] - steps + 4).squeeze(-1)
            if self.fused:
                context = F.scaled_dot_product_attention(q, k, v, bias.expand(len(x), -1, -1))
            else:
                context = (q @ k.transpose(1, 2) + bias).softmax(-1) @ v
            out: Tensor = self.last(context)
            return out.mean(1)

    for fused in (True, False):
        found = look(Biased(fused=fused), torch.arange(12).view(4, 3))
        assert brief(found) == [
            ("words:out", "embed", "element"),
            ("last:in", "head", "element"),
        ]
        assert ("places:out", "query_key_value") in refused(found)


def test_dropout_on_a_table_of_constants_is_a_site_and_off() -> None:
    class Places(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 8), nn.Linear(8, N_CLASSES)
            self.drop = nn.Dropout(0.1)
            self.register_buffer("table", torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(F.relu(self.first(x) + self.drop(self.get_buffer("table"))))
            return out

    site = by_name(look(Places(), normal(4, 8)))["drop:p"]
    assert (site.existing_rate, site.recommended, site.kinds) == (0.1, False, ("element",))


def test_model_that_asks_for_gradients_of_its_input_is_read() -> None:
    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(8, N_CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = x[:, None]
            if self.training:
                x.requires_grad = True
            out: Tensor = self.last(x)
            return out.mean(1)

    assert brief(look(Asking(), normal(4, 8))) == [("last:in", "input", "element")]


def test_frozen_parts_get_no_new_site_and_their_own_dropout_is_off() -> None:
    model = nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.1),
        nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, N_CLASSES),
    )  # fmt: skip
    for layer in (model[0], model[2], model[5]):
        layer.requires_grad_(False)
    found = look(model, normal(4, 8))
    assert [(s.site, s.recommended) for s in found.sites] == [
        ("4:p", False),
        ("6:out", True),  # a trainable layer reads it
        ("8:out", True),
    ]
    assert "frozen" in str(by_name(found)["4:p"].reason)
    assert {("0:in", "frozen"), ("1:out", "frozen")} <= refused(found)


class Noisy(nn.Module):
    """Draws from torch's generator, and changes a buffer and an attribute of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.last = nn.Linear(16, N_CLASSES)
        self.register_buffer("mean", torch.zeros(16))
        self.n_forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        self.n_forwards += 1
        self.get_buffer("mean").add_(x.detach().mean(0))
        out: Tensor = self.last(F.relu(x + torch.randn_like(x)))
        return out


CASES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "mlp with batch norm": (lambda: reference("mlp", batch_norm=True), normal(4, 64)),
    "cnn": (lambda: reference("cnn"), normal(4, 64)),
    "mnist example": (MnistExample, normal(4, 1, 8, 8)),
    "own rate": (OwnRate, normal(4, 8)),
    "residual": (lambda: ResidualMlp(0.1), normal(4, 8)),
    "block": (
        lambda: nn.Sequential(Block(2, 4, 2), nn.Flatten(), nn.Linear(64, N_CLASSES)),
        normal(4, 2, 8, 8),
    ),
    "loop": (Loop, normal(4, 8)),
    "wide and deep": (WideAndDeep, normal(4, 8)),
    "noisy": (Noisy, normal(4, 8)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_model_comes_back_bit_for_bit(case: str) -> None:
    make, inputs = CASES[case]
    model = make().train()
    next(iter(model.children())).eval()
    first = next(iter(model.parameters())).requires_grad_(False)
    before = copy.deepcopy(model)
    random_state, rows = torch.get_rng_state(), inputs.clone()
    look(model, inputs)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(inputs, rows)
    assert not inputs.requires_grad
    assert not first.requires_grad
    for mine, theirs in zip(model.modules(), before.modules(), strict=True):
        assert mine.training == theirs.training
        assert not mine._forward_hooks
        assert not mine._forward_pre_hooks
        skipped = ("_parameters", "_buffers", "_modules")
        assert {k: v for k, v in vars(mine).items() if k not in skipped} == {
            k: v for k, v in vars(theirs).items() if k not in skipped
        }
    for key, value in before.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("case", CASES)
def test_every_site_that_is_found_can_be_instrumented_and_acts(case: str) -> None:
    make, inputs = CASES[case]
    found = look(make(), inputs)
    outputs = {}
    for site in [None, *found.sites]:
        for kind in ("none",) if site is None else site.kinds:
            model = make().train()
            with torch.no_grad():
                generator = torch.Generator().manual_seed(2)
                for parameter in model.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
            ports = [SitePort(s.site, s.kinds[0], s.calls) for s in found.sites]
            if site is not None:
                ports = [SitePort(site.site, kind, site.calls)]
            instrument(model, ports)
            if site is not None:
                set_rates(model, {site.site: 0.5})
            silence(model)
            with torch.random.fork_rng(), site_mode(model, vmapped=False):
                outputs[None if site is None else (site.site, kind)] = model(inputs)
    without = outputs.pop(None)
    assert outputs
    assert all(not torch.equal(output, without) for output in outputs.values())


def silence(model: nn.Module) -> None:
    """Own rates that are no port here."""
    for module in model.modules():
        if isinstance(module, OwnRate) and module.feature_drop == 0.3:
            module.feature_drop = 0.0


def test_instrumented_models_and_models_without_gradients_are_refused() -> None:
    model = reference("mlp")
    instrument(model, [])
    with pytest.raises(SiteError, match="strip it"):
        look(model, normal(4, 64))

    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, N_CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x)
            return out.detach()

    with pytest.raises(SiteError, match="does not depend"):
        look(Detached(), normal(4, 8))


class Broken(nn.Module):
    """A layer, and what a test does with its output."""

    def __init__(self, end: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.layer = nn.Linear(8, N_CLASSES)
        self.end = end

    def forward(self, x: Tensor) -> object:
        return self.end(self.layer(x))


def crash(x: Tensor) -> Tensor:
    raise KeyError("weights of last year")


BAD: dict[str, tuple[nn.Module, Tensor, str]] = {
    "forward fails": (Broken(crash), normal(4, 8), r"\[4, 8\].*weights of last year.*Change"),
    "no tensor": (Broken(lambda x: "yes"), normal(4, 8), "returns no float tensor, but str"),
    "no float": (Broken(lambda x: {"labels": x.argmax(-1)}), normal(4, 8), "no float tensor"),
    "wrong shape": (
        nn.Sequential(nn.ReLU(), nn.Linear(9, N_CLASSES)),
        normal(4, 8),
        r"inputs of shape \[4, 8\] in module '1'",
    ),
    "loss fails": (
        Broken(lambda x: x.unsqueeze(1)),
        normal(4, 8),
        r"loss fails on the model's output, \[4, 1, 5\], and the targets, \[4\]",
    ),
    "no parameters": (nn.Sequential(nn.Flatten(), nn.ReLU()), normal(4, 8), "no parameters"),
    "no sites": (
        nn.Sequential(nn.Embedding(9, N_CLASSES), nn.Flatten()),
        torch.arange(4).view(4, 1),
        "no place for dropout: its output layers are 0",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_models_that_cannot_be_searched_are_refused_with_what_to_do(case: str) -> None:
    model, inputs, message = BAD[case]
    with pytest.raises(SiteError, match=message):
        look(model, inputs)
