"""Models of convolutions, and the mixer that stands in for them."""

import torch
import torch.nn.functional as F  # noqa: N812
from tests.zoo.case import Case, floats, layers
from torch import Tensor, nn


class FunctionalCnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3)
        self.fc1, self.fc2 = nn.Linear(32, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        out: Tensor = self.fc2(F.relu(self.fc1(x.flatten(1))))
        return out


class SharedReluBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.down: nn.Module = nn.Identity()
        if stride > 1:
            self.down = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu(y + self.down(x))
        return out


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )
        self.layer1 = nn.Sequential(SharedReluBlock(8, 8, 1), SharedReluBlock(8, 8, 1))
        self.layer2 = nn.Sequential(SharedReluBlock(8, 16, 2), SharedReluBlock(16, 16, 1))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.layer2(self.layer1(self.stem(x))).mean((2, 3)))
        return out


def conv_block(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU())


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.d1, self.d2, self.mid = conv_block(3, 4), conv_block(4, 8), conv_block(8, 8)
        self.up, self.u1 = nn.ConvTranspose2d(8, 4, 2, 2), conv_block(8, 4)
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.d1(x)
        b = self.mid(self.d2(F.max_pool2d(a, 2)))
        out: Tensor = self.out(self.u1(torch.cat([self.up(b), a], 1)))
        return out


class MixerBlock(nn.Module):
    def __init__(self, n: int, d: int) -> None:
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.tok = nn.Sequential(nn.Linear(n, 8), nn.GELU(), nn.Linear(8, n))
        self.ch = nn.Sequential(nn.Linear(d, 32), nn.GELU(), nn.Linear(32, d))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tok(self.n1(x).transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.ch(self.n2(x))
        return out


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.e = nn.Conv2d(3, 12, 4, 4)
        self.b = nn.Sequential(MixerBlock(4, 12), MixerBlock(4, 12))
        self.n, self.h = nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.h(self.n(self.b(self.e(x).flatten(2).transpose(1, 2))).mean(1))
        return out


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.dw = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.down, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.pw, self.fc = nn.Conv2d(8, 16, 1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.dw(F.relu(self.stem(x))))
        scale = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        out: Tensor = self.fc(F.relu(self.pw(x * scale)).mean((2, 3)))
        return out


class Temporal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(4, 8, 3, padding=1), nn.ReLU(), nn.Dropout1d(0.1),
            nn.Conv1d(8, 8, 3, padding=1), nn.ReLU(), nn.Dropout(0.1),
        )  # fmt: skip
        self.down, self.fc = nn.Conv1d(4, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(F.relu(self.net(x) + self.down(x)).mean(-1))
        return out


IMAGES = floats(4, 3, 8, 8)
PIXELS = "the image, read by the first convolution"
CASES = (
    Case("functional CNN", FunctionalCnn, IMAGES, ("fc2",), (
        ("conv1:in", "input", "element", PIXELS),
        ("conv2:in", "conv", "channel", "maps behind a functional relu"),
        ("fc1:in", "hidden", "element", "flattened maps, read by a dense layer"),
        ("fc2:in", "head", "element", "read by the output layer"),
    ), is_cheap=True),
    Case("CNN with batch norm", lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 16), nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(16, 5),
    ), IMAGES, ("12",), (
        ("0:in", "input", "element", "off: a batch norm follows"),
        ("3:out", "conv", "channel", "off: a batch norm follows"),
        ("8:out", "hidden", "element", "Flatten gives on what the dense layer reads"),
        ("11:p", "head", "element", "the model's own"),
    )),
    Case("ResNet with a shared ReLU", ResNet, IMAGES, ("fc",), (
        ("stem.0:in", "input", "element", "off: a batch norm follows"),
        *layers(2, ("layer1.{i}.conv2:in", "conv", "channel", "relu:out would drop the skip too"),
                ("layer1.{i}.bn2:out", "branch", "path", "the end of the branch")),
        ("layer2.0.conv1:in", "conv", "channel", "the projection reads it too and stays whole"),
        *layers(2, ("layer2.{i}.conv2:in", "conv", "channel", "inside the branch"),
                ("layer2.{i}.bn2:out", "branch", "path", "the longer side is the branch")),
        ("fc:in", "head", "element", "averaged maps"),
    )),  # conv1 of the other blocks reads the skip path
    Case("U-Net", UNet, IMAGES, ("out",), (
        ("d1.0:in", "input", "element", "off: a batch norm follows"),
        ("d2.0:in", "conv", "channel", "pooled maps; the skip of the U stays whole"),
        ("d2.2:out", "conv", "channel", "read by mid"),
        ("mid.2:out", "conv", "channel", "read by the transposed convolution"),
        ("u1.0:in", "conv", "channel", "both sides of the U, joined"),
        ("u1.2:out", "head", "element", "maps, read by the output convolution"),
    )),
    Case("MLP-Mixer", Mixer, IMAGES, ("h",), (
        ("e:in", "input", "element", "the image, cut into patches by a convolution"),
        *layers(2, ("b.{i}.tok.0:in", "hidden", "element", "pre-norm, transposed by code; off"),
                ("b.{i}.tok.1:out", "hidden", "element", "behind the activation"),
                ("b.{i}.tok:out", "branch", "path", "transposed back: the same units"),
                ("b.{i}.n2:out", "hidden", "element", "pre-norm output, off"),
                ("b.{i}.ch.1:out", "hidden", "element", "behind the activation"),
                ("b.{i}.ch:out", "branch", "path", "the end of the branch")),
        ("h:in", "head", "element", "the mean over patches"),
    )),
    Case("squeeze and excite", SqueezeExcite, IMAGES, ("fc",), (
        ("stem:in", "input", "element", PIXELS),
        ("dw:in", "conv", "channel", "maps"),
        ("down:in", "conv", "channel", "averaged maps, still channels"),
        ("up:in", "conv", "channel", "squeezed channels"),
        ("pw:in", "conv", "channel", "scaled maps"),
        ("fc:in", "head", "element", "averaged maps"),
    )),
    Case("temporal convolutions", Temporal, floats(4, 4, 12), ("fc",), (
        (":in", "input", "element", "branch and projection read the input"),
        ("net.2:p", "conv", "channel", "Dropout1d drops channels"),
        ("net.5:p", "branch", "element", "the model's own at the end of the branch"),
        ("fc:in", "head", "element", "the mean over time"),
    )),
    Case("fully convolutional", lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ), IMAGES, ("2",), (
        ("0:in", "input", "element", PIXELS),
        ("1:out", "head", "element", "maps may fall whole as well"),
    )),
)  # fmt: skip
