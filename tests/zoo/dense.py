"""Models of dense layers: structures that a reader of names or of a traced program gets wrong."""

import torch
import torch.nn.functional as F  # noqa: N812
from tests.zoo.case import Case, floats, layers
from torch import Tensor, nn

INPUT = "the float input, read by the first layer"


class FunctionalMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(20, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.out(F.relu(self.b(F.gelu(self.a(x))))), -1)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(20, 16), nn.SiLU(), nn.Linear(16, 16), nn.SiLU())
        self.classes, self.value = nn.Linear(16, 3), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.trunk(x)
        return torch.cat([self.classes(h), self.value(h)], 1)


class WideAndDeep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(20, 3)
        self.deep = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.wide(x) + self.deep(x)
        return out


class RawParameters(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.zeros(20, 16))
        self.l = nn.Linear(16, 16)
        self.w2 = nn.Parameter(torch.zeros(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.l(torch.relu(x @ self.w1))) @ self.w2


class FunctionalDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.drop_p = nn.Linear(20, 16), nn.Linear(16, 3), 0.3

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(F.dropout(F.relu(self.a(x)), self.drop_p, self.training))
        return out


class DataDependentLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(20, 20), nn.Linear(20, 3), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2 if float(x.sum()) > -1e9 else 1):
            x = self.act(self.a(x))
        out: Tensor = self.b(x)
        return out


class ResidualBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.f1, self.f2 = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.f2(F.gelu(self.f1(self.norm(x))))
        return out


def residual_mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 16), ResidualBlock(), ResidualBlock(), nn.LayerNorm(16), nn.Linear(16, 3)
    )


class GatedMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(20, 16), nn.Linear(20, 16)
        self.down, self.out = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(F.relu(self.down(F.silu(self.gate(x)) * self.up(x))))
        return out


class TiedAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc, self.mid = nn.Linear(20, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.mid(F.relu(self.enc(x)))) @ self.enc.weight


class Tabular(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeds = nn.ModuleList([nn.Embedding(50, 4), nn.Embedding(50, 4)])
        self.first, self.last = nn.Linear(11, 16), nn.Linear(16, 3)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        columns = [embed(x["codes"][:, i]) for i, embed in enumerate(self.embeds)]
        out: Tensor = self.last(F.relu(self.first(torch.cat([*columns, x["values"]], 1))))
        return out


class DenselyConnected(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(20, 8), nn.Linear(28, 8), nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.a, self.b):
            x = torch.cat([x, F.relu(layer(x))], 1)
        out: Tensor = self.out(x)
        return out


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(20, 16), nn.ReLU())
        self.head = nn.Linear(16, 2)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        out: Tensor = self.head((self.encoder(x["left"]) - self.encoder(x["right"])).abs())
        return out


X = floats(4, 20)
CASES = (
    Case("functional MLP", FunctionalMlp, X, ("out",), (
        ("a:in", "input", "element", INPUT),
        ("b:in", "hidden", "element", "gelu is a function, so the reader's port"),
        ("out:in", "head", "element", "read by the output layer; log-softmax is walked through"),
    ), is_cheap=True),
    Case("two heads", TwoHeads, X, ("classes", "value"), (
        ("trunk.0:in", "input", "element", INPUT),
        ("trunk.1:out", "hidden", "element", "behind the activation"),
        ("trunk.3:out", "head", "element", "one tensor with two readers is one site"),
    ), is_cheap=True),
    Case("wide and deep", WideAndDeep, X, ("deep.2", "wide"), (
        (":in", "input", "element", "two layers read the input: the port of the whole model"),
        ("deep.1:out", "head", "element", "the deep side; the sum of two heads is no residual"),
    )),
    Case("SELU and softmax", lambda: nn.Sequential(
        nn.Linear(20, 16), nn.SELU(), nn.Linear(16, 16), nn.SELU(), nn.AlphaDropout(0.05),
        nn.Linear(16, 3), nn.Softmax(-1),
    ), X, ("5",), (
        ("0:in", "input", "element", INPUT),
        ("1:out", "hidden", "alpha", "behind SELU"),
        ("4:p", "head", "alpha", "the model's own alpha dropout"),
    ), is_cheap=True),
    Case("raw parameters", RawParameters, X, ("<functional MmBackward0>",), (
        ("l:in", "hidden", "element", "a product with a weight stands before it: no input"),
    )),  # relu(l) is read by a function: no module has a port for it
    Case("functional dropout", FunctionalDropout, X, ("b",), (
        ("a:in", "input", "element", INPUT),
        (":drop_p", "head", "element", "an attribute of the root that reaches F.dropout"),
    ), is_cheap=True),
    Case("data-dependent loop", DataDependentLoop, X, ("b",), (
        ("a:in", "input", "element", "its first call reads the input; both calls are one site"),
        ("b:in", "head", "element", "act runs twice, so the reader's port"),
    ), exceptions={
        "pack": "float(x.sum()) asks for a number: vmap refuses",
        "compile": "float(x.sum()) asks for a number: the graph breaks",
    }),
    Case("residual MLP", residual_mlp, X, ("4",), (
        ("0:in", "input", "element", INPUT),
        *layers(1, ("1.norm:out", "hidden", "element", "pre-norm output, off"),
                ("1.f2:in", "hidden", "element", "behind a functional gelu"),
                ("1.f2:out", "branch", "path", "the branch ends in this layer")),
        ("2.norm:out", "hidden", "element", "pre-norm output, off"),
        ("2.f2:in", "hidden", "element", "behind a functional gelu"),
        ("2.f2:out", "branch", "path", "the branch ends in this layer"),
        ("3:out", "head", "element", "the final norm, read by the output layer"),
    )),
    Case("gated MLP", GatedMlp, X, ("out",), (
        (":in", "input", "element", "gate and up read the same input"),
        ("down:in", "hidden", "element", "the product of gate and up, once"),
        ("out:in", "head", "element", "behind a functional relu"),
    )),
    Case("batch norm and dropout", lambda: nn.Sequential(
        nn.Linear(20, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2),
        nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3),
    ), X, ("8",), (
        ("0:in", "input", "element", "off: a batch norm follows"),
        ("3:p", "hidden", "element", "the model's own; off: a batch norm follows"),
        ("7:p", "head", "element", "the model's own, behind the last norm"),
    )),
    Case("tied autoencoder", TiedAutoencoder, X, ("<functional MmBackward0>",), (
        ("enc:in", "input", "element", INPUT),
        ("mid:in", "hidden", "element", "behind a functional relu"),
    )),  # the decoder's input is read by a function
    Case("tabular embeddings", Tabular, {
        "codes": torch.arange(8).view(4, 2), "values": floats(4, 3),
    }, ("last",), (
        ("embeds.0:out", "embed", "element", "an embedding"),
        ("embeds.1:out", "embed", "element", "an embedding"),
        ("first:in", "hidden", "element", "embeddings and values, joined"),
        ("last:in", "head", "element", "behind a functional relu"),
    )),
    Case("densely connected", DenselyConnected, X, ("out",), (
        ("a:in", "input", "element", INPUT),
        ("b:in", "hidden", "element", "the input and what a made of it"),
        ("out:in", "head", "element", "everything so far"),
    )),
    Case("siamese", Siamese, {"left": floats(4, 20), "right": floats(4, 20) + 1}, ("head",), (
        ("encoder.0:in", "input", "element", "called on both inputs: one site, two calls"),
        ("head:in", "head", "element", "the difference, which no module makes"),
    )),
    Case("weight norm", lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(20, 16)), nn.GELU(), nn.Linear(16, 3),
    ), X, ("2",), (
        ("0:in", "input", "element", "a parametrised layer is a layer"),
        ("1:out", "head", "element", "behind the activation"),
    ), exceptions={"pickle": "torch refuses to pickle a parametrised module"}),
)  # fmt: skip
