"""Transformers: torch's own layers and hand-written attention."""

import torch
from tests.zoo.case import Case, floats, layers, tokens
from torch import Tensor, nn

PROBABILITIES = "attention probabilities, dropped by the rate that the layer holds"


class EncoderClassifier(nn.Module):
    def __init__(self, *, norm_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True, norm_first=norm_first)
        self.e, self.p = nn.Embedding(50, 8), nn.Parameter(torch.zeros(1, 5, 8))
        self.t = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.h = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.h(self.t(self.e(x) + self.p).mean(1))
        return out


class Translator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Linear(6, 8), nn.Linear(6, 8)
        self.t = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
        self.out = nn.Linear(8, 4)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        out: Tensor = self.out(self.t(self.source(x["source"]), self.target(x["target"])))
        return out


class CausalBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.att_drop, self.resid_drop = nn.Dropout(0.1), nn.Dropout(0.1)
        self.mlp = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8), nn.Dropout(0.1))

    def attend(self, x: Tensor) -> Tensor:
        n, steps, width = x.shape
        q, k, v = (
            t.view(n, steps, 2, width // 2).transpose(1, 2)
            for t in self.qkv(x).split(width, dim=2)
        )
        scores = (q @ k.transpose(-2, -1)) * 0.5
        hidden = torch.ones(steps, steps, dtype=torch.bool).triu(1)
        weights = self.att_drop(scores.masked_fill(hidden, float("-inf")).softmax(-1))
        out: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(n, steps, width))
        return out

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.resid_drop(self.attend(self.ln1(x)))
        out: Tensor = x + self.mlp(self.ln2(x))
        return out


class HandWrittenGpt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, 8), nn.Embedding(5, 8)
        self.drop = nn.Dropout(0.1)
        self.blocks = nn.Sequential(CausalBlock(), CausalBlock())
        self.ln_f, self.head = nn.LayerNorm(8), nn.Linear(8, 50, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(self.words(x) + self.places(torch.arange(x.shape[1])))
        out: Tensor = self.head(self.ln_f(self.blocks(h)))
        return out


class BareAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.norm = nn.Linear(6, 8), nn.LayerNorm(8)
        self.att = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.read(x)
        y = self.norm(x)
        out: Tensor = self.out(torch.relu(x + self.att(y, y, y)[0]))
        return out


POST_NORM_LAYER = (
    ("t.layers.{i}.self_attn:dropout", "attn_prob", "element", PROBABILITIES),
    ("t.layers.{i}.dropout1:p", "branch", "element", "the end of the attention branch"),
    ("t.layers.{i}.dropout:p", "hidden", "element", "behind the activation"),
    ("t.layers.{i}.dropout2:p", "branch", "element", "the end of the second branch"),
)
CASES = (
    Case("TransformerEncoder, post-norm", lambda: EncoderClassifier(norm_first=False),
         tokens(4, 5), ("h",), (
        ("e:out", "embed", "element", "before positions are added"),
        *layers(2, *POST_NORM_LAYER),
        ("h:in", "head", "element", "the mean over positions"),
    )),  # linear1 reads norm1, which is the skip path as well
    Case("TransformerEncoder, pre-norm", lambda: EncoderClassifier(norm_first=True),
         tokens(4, 5), ("h",), (
        ("e:out", "embed", "element", "before positions are added"),
        *layers(2, *POST_NORM_LAYER,
                ("t.layers.{i}.norm2:out", "hidden", "element", "pre-norm output, off")),
        ("h:in", "head", "element", "the mean over positions"),
    )),
    Case("nn.Transformer", Translator, {
        "source": floats(4, 5, 6), "target": floats(4, 3, 6),
    }, ("out",), (
        ("source:in", "input", "element", "the float source"),
        ("target:in", "input", "element", "the float target"),
        ("t.encoder.layers.0.self_attn:dropout", "attn_prob", "element", PROBABILITIES),
        ("t.encoder.layers.0.dropout1:p", "branch", "element", "the end of the branch"),
        ("t.encoder.layers.0.dropout:p", "hidden", "element", "behind the activation"),
        ("t.encoder.layers.0.dropout2:p", "branch", "element", "the end of the branch"),
        ("t.decoder.layers.0.self_attn:dropout", "attn_prob", "element", PROBABILITIES),
        ("t.decoder.layers.0.dropout1:p", "branch", "element", "the end of the branch"),
        ("t.decoder.layers.0.multihead_attn:dropout", "attn_prob", "element", PROBABILITIES),
        ("t.decoder.layers.0.dropout2:p", "branch", "element", "the end of the branch"),
        ("t.decoder.layers.0.dropout:p", "hidden", "element", "behind the activation"),
        ("t.decoder.layers.0.dropout3:p", "branch", "element", "the end of the branch"),
        ("t.decoder.norm:out", "head", "element", "the final norm, read by the output layer"),
    )),
    Case("hand-written GPT", HandWrittenGpt, tokens(4, 5), ("head",), (
        ("drop:p", "embed", "element", "words and places; both embeddings are covered by it"),
        *layers(2, ("blocks.{i}.att_drop:p", "attn_prob", "element", "behind the softmax"),
                ("blocks.{i}.proj:in", "attn_context", "element", "the context, off"),
                ("blocks.{i}.resid_drop:p", "branch", "element", "the end of the branch"),
                ("blocks.{i}.ln2:out", "hidden", "element", "pre-norm output, off"),
                ("blocks.{i}.mlp.1:out", "hidden", "element", "behind the activation"),
                ("blocks.{i}.mlp.3:p", "branch", "element", "the end of the branch")),
        ("ln_f:out", "head", "element", "the final norm"),
    )),
    Case("bare MultiheadAttention", BareAttention, floats(4, 5, 6), ("out",), (
        ("read:in", "input", "element", "the float sequence"),
        ("att:dropout", "attn_prob", "element", PROBABILITIES),
        ("att:out", "branch", "path", "the branch ends in the attention layer"),
        ("out:in", "head", "element", "behind a functional relu"),
    )),
)  # fmt: skip
