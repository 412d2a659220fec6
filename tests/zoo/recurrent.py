"""Recurrent models: torch's layers, cells in a loop, an encoder and a decoder."""

import torch
from tests.zoo.case import Case, floats, tokens
from torch import Tensor, nn

LSTM_COMPILE = "torch.compile does not trace torch's recurrent layers"


class Classifier(nn.Module):
    def __init__(self, layer: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.emb = nn.Embedding(50, 6)
        self.rnn = layer(6, 8, 2, batch_first=True, dropout=0.1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.rnn(self.emb(x))[0][:, -1])
        return out


class LastStates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(6, 8, 2, batch_first=True, bidirectional=True, dropout=0.2)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        _, state = self.rnn(x)
        out: Tensor = self.fc(torch.cat([state[-2], state[-1]], 1))
        return out


class TiedLanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc, self.rnn = nn.Embedding(50, 8), nn.LSTM(8, 8, batch_first=True)
        self.dec = nn.Linear(8, 50)
        self.dec.weight = self.enc.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dec(self.rnn(self.enc(x))[0])
        return out


class Stacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn1 = nn.RNN(6, 8, batch_first=True)
        self.rnn2 = nn.RNN(8, 8, batch_first=True, nonlinearity="relu")
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.rnn2(self.rnn1(x)[0])[0].mean(1))
        return out


class CellLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.fc = nn.GRUCell(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 8)
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        out: Tensor = self.fc(state)
        return out


class TimeFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.rnn, self.fc = nn.Linear(6, 6), nn.LSTM(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.rnn(torch.tanh(self.read(x.transpose(0, 1))))[0][-1])
        return out


class EncoderDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(50, 6), nn.Embedding(50, 6)
        self.encoder = nn.LSTM(6, 8, batch_first=True)
        self.decoder = nn.LSTM(6, 8, batch_first=True)
        self.out = nn.Linear(16, 50)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        memory, state = self.encoder(self.source(x["source"]))
        steps, _ = self.decoder(self.target(x["target"]), state)
        weights = torch.bmm(steps, memory.transpose(1, 2)).softmax(-1)
        out: Tensor = self.out(torch.cat([steps, torch.bmm(weights, memory)], -1))
        return out


SEQUENCES = floats(4, 5, 6)
NO_COMPILE = {"compile": LSTM_COMPILE}
CASES = (
    Case("LSTM classifier", lambda: Classifier(nn.LSTM), tokens(4, 5), ("fc",), (
        ("emb:out", "rnn_in", "locked", "an embedding that a recurrent layer reads"),
        ("rnn:dropout", "rnn_inter", "locked", "between the two layers, inside nn.LSTM"),
        ("rnn:out", "rnn_out", "locked", "the last step is a view of the output sequence"),
    ), exceptions=NO_COMPILE),
    Case("GRU classifier", lambda: Classifier(nn.GRU), tokens(4, 5), ("fc",), (
        ("emb:out", "rnn_in", "locked", "an embedding that a recurrent layer reads"),
        ("rnn:dropout", "rnn_inter", "locked", "between the two layers, inside nn.GRU"),
        ("rnn:out", "rnn_out", "locked", "the last step is a view of the output sequence"),
    ), exceptions=NO_COMPILE),
    Case("bidirectional GRU, last states", LastStates, SEQUENCES, ("fc",), (
        ("rnn:in", "rnn_in", "locked", "the float sequence"),
        ("rnn:dropout", "rnn_inter", "locked", "between the two layers"),
        ("fc:in", "head", "element", "joined states; nobody reads the output sequence"),
    ), exceptions=NO_COMPILE),
    Case("tied LSTM language model", TiedLanguageModel, tokens(4, 5), ("dec",), (
        ("enc:out", "rnn_in", "locked", "an embedding that a recurrent layer reads"),
        ("rnn:out", "rnn_out", "locked", "all steps, read by the output layer"),
    ), exceptions=NO_COMPILE),  # one layer: no dropout inside
    Case("stacked RNNs", Stacked, SEQUENCES, ("fc",), (
        ("rnn1:in", "rnn_in", "locked", "the float sequence"),
        ("rnn1:out", "rnn_out", "locked", "between two layers: one site"),
        ("rnn2:out", "rnn_out", "locked", "the output sequence"),
        ("fc:in", "head", "element", "its mean over time: other units"),
    ), exceptions=NO_COMPILE),
    Case("GRU cell in a loop", CellLoop, SEQUENCES, ("fc",), (
        ("cell:in", "rnn_in", "locked", "a step of the sequence in each call"),
        ("fc:in", "head", "element", "the last state; cell:out would drop the recurrence"),
    )),
    Case("LSTM with time first", TimeFirst, SEQUENCES, ("fc",), (
        ("read:in", "input", "element", "the transposed input"),
        ("rnn:in", "rnn_in", "locked", "tanh is a function"),
        ("rnn:out", "rnn_out", "locked", "the last step is a view of the output sequence"),
    ), exceptions=NO_COMPILE),
    Case("LSTM encoder and decoder with attention", EncoderDecoder, {
        "source": tokens(4, 5), "target": tokens(4, 3),
    }, ("out",), (
        ("source:out", "rnn_in", "locked", "an embedding that a recurrent layer reads"),
        ("encoder:out", "rnn_out", "locked", "the memory, which attention reads twice"),
        ("target:out", "rnn_in", "locked", "an embedding that a recurrent layer reads"),
        ("decoder:out", "rnn_out", "locked", "the decoder's steps"),
        ("out:in", "head", "element", "steps and contexts, joined"),
    ), exceptions=NO_COMPILE),
)  # fmt: skip
