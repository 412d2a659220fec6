"""Leases on code of the users' own: its faults in words, and images that are read when needed."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from tests.trainer.worker.scripted_service import Body, ScriptedService, train_lease, trial
from torch import Tensor, nn
from torch.nn import functional

from dropt.client import Client
from dropt_trainer.data import placing
from dropt_trainer.data.dataset import Dataset
from dropt_trainer.data.own import as_dataset
from dropt_trainer.models.own import adapt
from dropt_trainer.worker.loop import Worker
from dropt_trainer.worker.plugins import TASKS, OwnLoss, OwnModel, Plugins
from dropt_trainer.worker.registration import registration

SIDE, N = 6, 60
Make = Callable[[ScriptedService, Plugins], Worker]


class Net(nn.Module):
    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.first = nn.Linear(SIDE * SIDE, 16)
        self.last = nn.Linear(16, n_outputs)

    def forward(self, x: Tensor) -> Any:
        return {"logits": self.last(self.first(x.flatten(1)).relu())}


class NoTensor(Net):
    def forward(self, x: Tensor) -> Any:
        return {"text": "nothing"}


class Failing(Net):
    def forward(self, x: Tensor) -> Any:
        return self.last(x)


class Detached(Net):
    def forward(self, x: Tensor) -> Any:
        return torch.zeros(len(x), 3)


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Any:
        return x.flatten(1)[:, :3] * self.scale


class Picky(nn.Module):
    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise ValueError(f"images of three dimensions are expected, not {input_shape}")


def without_parameters() -> nn.Module:
    return nn.Flatten()


def scalar(output: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(output, target)


def halved(output: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(output, target, reduction="none") / 2


class Images:
    """PNG files; the label is in the name."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.png"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        with Image.open(self.paths[row]) as image:
            x = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)
        return x[None], int(self.paths[row].stem.split("-")[1])


class Shifted(Images):
    def transform(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x.roll(int(torch.randint(3, (), generator=generator)), -1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for row in range(N):
        pixels = generator.integers(0, 80, (SIDE, SIDE), dtype=np.uint8)
        pixels[2 * (row % 3)] += 120
        Image.fromarray(pixels).save(folder / f"{row:03}-{row % 3}.png")
    return folder


@pytest.fixture
def make() -> Iterator[Make]:
    clients = []

    def worker(service: ScriptedService, plugins: Plugins) -> Worker:
        client, device = (
            Client("http://service", transport=service.transport()),
            torch.device("cpu"),
        )
        clients.append(client)
        said = registration("test", device, 4, plugins)
        made = Worker(client, said, device, np.random.default_rng(0), plugins)
        service.idle = made.pulse.drain.set
        return made

    yield worker
    for client in clients:
        client.close()


def plugins_of(
    factory: Callable[..., object], dataset: Dataset, loss: Callable[..., Tensor] = halved
) -> Plugins:
    own = OwnModel(adapt(factory, "own"), TASKS, "test")
    return Plugins({"own": own}, {dataset.name: dataset}, {"loss": OwnLoss(loss, "test")})


def lease_of(dataset: Dataset, *, kind: str = "train", loss: str = "loss", **changes: Any) -> Body:
    return train_lease(
        [] if kind == "inspect" else [trial("a", sites={
            "first:in": {"kind": "element", "rate": 0.2},
            "last:in": {"kind": "element", "rate": 0.3}})],
        model={"name": "own", "args": {}}, kind=kind,
        dataset={"name": dataset.name, "task": dataset.task, "sha256": dataset.sha256},
        training={"epochs": 4, "batch_size": 8, "loss": loss, "metrics": ["nll", "accuracy"]},
        columns={"first:in": ["element"], "last:in": ["element"]}, **changes,
    )  # fmt: skip


def flat() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 1, SIDE, SIDE, generator=generator)
    return as_dataset((x, torch.arange(N) % 3), name="flat")


@pytest.mark.parametrize(
    ("factory", "loss", "said"),
    [
        (Failing, halved, "forward fails on inputs of shape .*shapes cannot be multiplied"),
        (NoTensor, halved, "returns no float tensor, but dict"),
        (Detached, halved, "does not depend on the model's inputs or weights"),
        (Scale, halved, "The model has no place for dropout"),
        (without_parameters, halved, "the model of own has no parameter to train"),
        (Net, scalar, r"the loss returns \[\] for \d+ examples; one number for each"),
        (lambda: 3, halved, "own returns int, a torch.nn.Module is expected"),
    ],
)  # fmt: skip
def test_job_that_cannot_work_fails_with_its_reason(
    make: Make, factory: Callable[..., object], loss: Callable[..., Tensor], said: str
) -> None:
    failure = inspected(make, plugins_of(factory, flat(), loss), flat())["failure"]
    assert failure["reason"] == "error"
    detail = failure["detail"]
    assert "Traceback" not in detail
    assert re.search(said, detail), detail


def test_data_of_the_wrong_shape_fails_with_what_the_factory_says(make: Make) -> None:
    table = as_dataset((torch.randn(N, 4), torch.arange(N) % 3), name="table")
    failure = inspected(make, plugins_of(Picky, table), table)["failure"]
    assert "images of three dimensions are expected, not (4,)" in failure["detail"]


def test_model_whose_only_site_is_its_input_is_inspected(make: Make) -> None:
    class Linear(nn.Module):
        def __init__(self, n_outputs: int) -> None:
            super().__init__()
            self.last = nn.Linear(SIDE * SIDE, n_outputs)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(x.flatten(1))
            return out

    report = inspected(make, plugins_of(Linear, flat()), flat())
    assert report["failure"] is None
    assert [site["site"] for site in report["result"]["sites"]] == ["last:in"]


def inspected(make: Make, plugins: Plugins, dataset: Dataset) -> Body:
    service = ScriptedService()
    service.leases.append(lease_of(dataset, kind="inspect"))
    make(service, plugins).run()
    (report,) = [r["inspection"] for r in service.reports if r.get("inspection")]
    found: Body = report
    return found


def trained(make: Make, plugins: Plugins, dataset: Dataset, **changes: Any) -> list[float]:
    """The training losses of the epochs."""
    service = ScriptedService()
    service.leases.append(lease_of(dataset, **changes))
    make(service, plugins).run()
    assert service.finished["a"]["outcome"] == "completed", service.finished["a"]
    measured = [m for report in service.reports for m in report["measurements"]]
    return [m["train_loss"] for m in measured] + [m["validation_loss"] for m in measured]


@pytest.mark.slow
def test_images_that_are_read_train_as_tensors_do(
    make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = as_dataset(Images(folder), name="images")
    held = trained(make, plugins_of(Net, read), read)
    monkeypatch.setattr(placing, "RESIDENT_SHARE", 0.0)  # no room: each batch is read anew
    streamed = trained(make, plugins_of(Net, read), read)
    assert held == pytest.approx(streamed, rel=1e-5)
    assert held[3] < held[0]
    rows = [Images(folder)[i] for i in range(N)]
    x, y = torch.stack([row[0] for row in rows]), [row[1] for row in rows]
    tensors = as_dataset((x, y), name="tensors")
    assert trained(make, plugins_of(Net, tensors), tensors) == pytest.approx(held, rel=1e-5)


@pytest.mark.slow
def test_images_with_a_transform_train_repeatably_alone_and_say_why(
    make: Make, folder: Path
) -> None:
    read = as_dataset(Shifted(folder), name="images")
    probe = inspected(make, plugins_of(Net, read), read)["result"]["probe"]
    assert (probe["lane"], probe["slots"]) == ("solo", 1)
    assert "read one by one" in probe["why"]
    once, again = (trained(make, plugins_of(Net, read), read) for _ in range(2))
    assert once == again
    still = as_dataset(Images(folder), name="images")
    assert once != trained(make, plugins_of(Net, still), still)


def test_evidence_on_images_scores_each_test_row_by_the_metric_and_not_by_the_own_loss(
    make: Make, folder: Path
) -> None:
    read = as_dataset(Shifted(folder), name="images")
    service = ScriptedService()
    service.leases.append(
        lease_of(read, step="compare", per_example=True, score=["train", "validation", "test"])
    )
    make(service, plugins_of(Net, read)).run()
    end = service.finished["a"]
    scores = safetensors.torch.load(service.artifacts[end["scores"]["test"]])
    right = scores["prediction"].gather(1, scores["target"][:, None])[:, 0]
    assert torch.allclose(scores["loss"], -right.log(), atol=1e-5)
    assert end["values"]["test"]["loss"] == pytest.approx(float(scores["loss"].mean()) / 2, 1e-4)


def test_image_that_is_gone_fails_its_trial_in_words(make: Make, tmp_path: Path) -> None:
    for row in range(30):
        Image.fromarray(np.full((SIDE, SIDE), row, np.uint8)).save(
            tmp_path / f"{row:03}-{row % 3}.png"
        )
    read = as_dataset(Shifted(tmp_path), name="images")
    (tmp_path / "004-1.png").unlink()
    service = ScriptedService()
    service.leases.append(lease_of(read))
    make(service, plugins_of(Net, replace(read))).run()
    end = service.finished["a"]
    assert (end["outcome"], end["reason"]) == ("failed", "data")
    assert "row 4 cannot be read: FileNotFoundError" in end["detail"]
    assert "Traceback" not in end["detail"]
