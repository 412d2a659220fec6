"""Every finding fires on a model made for it, and is silent on its corrected twin."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from dropt_trainer.losses import cross_entropy
from dropt_trainer.sites.discover import discover
from dropt_trainer.sites.lint import TEXTS

N_CLASSES = 5


class Custom(nn.Module):
    """Two layers, and what a test does between them."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.last = nn.Linear(16, N_CLASSES)
        self.drop_rate = 0.2
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.between(self, F.relu(self.first(x))))
        return out


class Skip(nn.Module):
    """A residual block with dropout on its skip or on its branch."""

    def __init__(self, *, on_skip: bool) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 8)
        self.branch = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        self.drop = nn.Dropout(0.1)
        self.last = nn.Linear(8, N_CLASSES)
        self.on_skip = on_skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.drop(x) if self.on_skip else x
        z = self.branch(y)
        out: Tensor = self.last(y + (z if self.on_skip else self.drop(z)))
        return out


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 8)
        self.last = nn.Linear(8, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.words(x).mean(1))
        return out


class Sequence(nn.Module):
    """A recurrent layer, with modules between it and its input, and behind its mean state."""

    def __init__(self, between: nn.Module, behind: nn.Module) -> None:
        super().__init__()
        self.read, self.between = nn.Linear(8, 8), between
        self.rnn, self.behind = nn.GRU(8, 8, batch_first=True), behind
        self.last = nn.Linear(8, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rnn(self.between(F.relu(self.read(x))))[0].mean(1)
        out: Tensor = self.last(self.behind(x))
        return out


def layers(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(*modules)


def dense(n_in: int, n_out: int) -> nn.Module:
    return nn.Linear(n_in, n_out)


def head() -> nn.Module:
    return nn.Linear(9, N_CLASSES)


def literal(model: nn.Module, x: Tensor) -> Tensor:
    return F.dropout(x, 0.5, model.training)


def held(model: nn.Module, x: Tensor) -> Tensor:
    return F.dropout(x, model.drop_rate, model.training)  # type: ignore[arg-type]


def unused(model: nn.Module, x: Tensor) -> Tensor:
    return x


FLOATS = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
STEPS = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.arange(12).view(4, 3) % 9
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], str, Tensor]] = {
    "output-layer-site": (
        lambda: layers(dense(8, 9), nn.ReLU(), head(), nn.Dropout(0.1)),
        lambda: layers(dense(8, 9), nn.ReLU(), nn.Dropout(0.1), head()),
        "3:p",
        FLOATS,
    ),
    "before-batch-norm": (
        lambda: layers(dense(8, 9), nn.Dropout(0.1), nn.BatchNorm1d(9), head()),
        lambda: layers(dense(8, 9), nn.BatchNorm1d(9), nn.Dropout(0.1), head()),
        "1:p",
        FLOATS,
    ),
    "batch-norm-downstream": (
        lambda: layers(dense(8, 9), nn.BatchNorm1d(9), head()),
        lambda: layers(dense(8, 9), nn.LayerNorm(9), head()),
        "0:in",
        FLOATS,
    ),
    "double-dropout": (
        lambda: layers(dense(8, 9), nn.Dropout(0.1), nn.ReLU(), nn.Dropout(0.1), head()),
        lambda: layers(dense(8, 9), nn.Dropout(0.1), dense(9, 9), nn.Dropout(0.1), head()),
        "3:p",
        FLOATS,
    ),
    "skip-path-dropout": (
        lambda: Skip(on_skip=True),
        lambda: Skip(on_skip=False),
        "drop:p",
        FLOATS,
    ),
    "hard-coded-dropout": (lambda: Custom(literal), lambda: Custom(held), ":dropout", FLOATS),
    "dead-dropout": (lambda: Custom(unused), lambda: Custom(held), ":drop_rate", FLOATS),
    "alpha-mismatch": (
        lambda: layers(dense(8, 9), nn.SELU(), nn.Dropout(0.1), head()),
        lambda: layers(dense(8, 9), nn.SELU(), nn.AlphaDropout(0.1), head()),
        "2:p",
        FLOATS,
    ),
    "token-input": (Words, lambda: layers(dense(8, 9), nn.ReLU(), head()), ":in", TOKENS),
    "recurrent-per-step": (
        lambda: Sequence(nn.Dropout(0.2), nn.Identity()),
        lambda: Sequence(nn.Identity(), nn.Dropout(0.2)),
        "between:p",
        STEPS,
    ),
}


def codes(model: nn.Module, inputs: Tensor) -> set[tuple[str, str]]:
    found = discover(model, inputs, torch.arange(len(inputs)), cross_entropy)
    return {(finding.code, finding.site) for finding in found.findings}


def test_every_code_has_a_case() -> None:
    assert CASES.keys() == TEXTS.keys()


@pytest.mark.parametrize("code", CASES)
def test_finding_fires_where_it_should(code: str) -> None:
    faulty, _, site, inputs = CASES[code]
    assert (code, site) in codes(faulty(), inputs)


@pytest.mark.parametrize("code", CASES)
def test_finding_is_silent_on_the_corrected_twin(code: str) -> None:
    _, corrected, _, inputs = CASES[code]
    inputs = FLOATS if code == "token-input" else inputs
    assert code not in {found for found, _ in codes(corrected(), inputs)}


def test_second_of_two_dropouts_is_off_by_default() -> None:
    faulty, _, _, inputs = CASES["double-dropout"]
    found = discover(faulty(), inputs, torch.arange(4), cross_entropy)
    assert {s.site: s.recommended for s in found.sites} == {
        "0:in": True,
        "1:p": True,
        "3:p": False,
    }


def test_dropout_behind_the_output_layer_is_no_site() -> None:
    faulty, _, _, inputs = CASES["output-layer-site"]
    found = discover(faulty(), inputs, torch.arange(4), cross_entropy)
    assert "3:p" not in {site.site for site in found.sites}
    assert ("3:p", "output_layer") in {(e.site, e.reason) for e in found.excluded}


def test_dropout_inside_and_around_recurrent_layers_is_named_where_it_has_a_rate() -> None:
    class Both(nn.Module):
        def __init__(self, rate: float) -> None:
            super().__init__()
            self.cell, self.drop = nn.GRUCell(8, 8), nn.Dropout(rate)
            self.rnn = nn.LSTM(8, 8, 2, batch_first=True, dropout=rate)
            self.last = nn.Linear(8, N_CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = self.rnn(x)[0]
            state = x.new_zeros(len(x), 8)
            for step in range(x.shape[1]):
                state = self.cell(self.drop(x[:, step]), state)
            out: Tensor = self.last(state)
            return out

    assert codes(Both(0.1), STEPS) == {
        ("recurrent-per-step", "drop:p"),
        ("recurrent-per-step", "rnn:dropout"),
    }
    assert codes(Both(0.0), STEPS) == set()
    found = discover(Both(0.1), STEPS, torch.arange(4), cross_entropy)
    kinds = {site.site: (site.kinds, site.calls) for site in found.sites}
    assert kinds["drop:p"] == (("element", "locked"), 3)
    assert kinds["rnn:dropout"] == (("locked", "element"), 1)
