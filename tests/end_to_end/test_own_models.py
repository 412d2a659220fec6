"""Models, data and losses of the users' own, from installation to training with the answer."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from PIL import Image
from tests.processes import BIN, DEADLINE_S, Service, finished
from torch import nn

from dropt.spec.results import BestRead
from dropt_trainer.sites.export import apply
from dropt_trainer.sites.fingerprint import fingerprint

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
QUICK: dict[str, Any] = {
    "budget": {"trials": 4}, "training": {"epochs": 4}, "evidence": {"effort": "quick"},
}  # fmt: skip
OPTIONS = ["--trials", "3", "--epochs", "3", "--effort", "quick", "--workers", "1"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the example package is installed into."""
    folder = tmp_path_factory.mktemp("installed")
    source = shutil.copytree(EXAMPLES / "own_package", folder / "source")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation",
         "--target", folder / "site", source],
        check=True,
    )  # fmt: skip
    return folder / "site"


@pytest.fixture(scope="module")
def service(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose workers have the package."""
    running = Service(
        tmp_path_factory.mktemp("own") / "state", environment={"PYTHONPATH": str(site)}
    )
    yield running
    running.stop()


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urlopen(request) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def test_installed_package_is_named_over_http_and_its_model_trains_with_the_answer(
    service: Service, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service.client() as client:
        job_id = post(
            f"{service.url}/v1/jobs",
            {"model": {"name": "gated_net", "args": {"width": 16}}, "dataset": "rings", **QUICK,
             "training": {"epochs": 4, "loss": "focal"}},
        )["id"]  # fmt: skip
        job = finished(client, job_id)
        assert job.state == "succeeded", job.reason
        best = client.get_best(job_id)

    monkeypatch.syspath_prepend(str(site))
    from dropt_example.data import rings  # type: ignore[import-not-found]  # installed by the test
    from dropt_example.loss import focal  # type: ignore[import-not-found]  # likewise
    from dropt_example.model import gated_net  # type: ignore[import-not-found]  # likewise

    data = rings()
    model = gated_net(input_shape=(8,), n_outputs=3, width=16)
    keys, x, y = list(model.state_dict()), data["x"], data["y"]
    bare = model.eval()(x)["logits"]
    rates = with_dropout(best)
    assert any(rates.values())
    apply(model, placement_of(best, model))
    assert list(model.state_dict()) == keys
    assert torch.equal(model.eval()(x)["logits"], bare)
    assert not torch.equal(model.train()(x)["logits"], bare)
    before = focal(model.eval()(x)["logits"], y).mean()
    train_one_epoch(model, x, y, focal)
    assert focal(model.eval()(x)["logits"], y).mean() < before


def with_dropout(best: BestRead) -> dict[str, float]:
    """The rates of the best configuration with dropout, whatever the verdict is."""
    (arm,) = [one for one in (best.recommended, *best.alternatives) if one.arm == "with"]
    return {site.site: site.rate for site in arm.sites}


def placement_of(best: BestRead, model: nn.Module) -> dict[str, Any]:
    (arm,) = [one for one in (best.recommended, *best.alternatives) if one.arm == "with"]
    sites = {s.site: {"kind": s.kind, "rate": s.rate} for s in arm.sites if s.rate}
    return {"schema": "dropt-placement/1", "fingerprint": fingerprint(model), "sites": sites}


def train_one_epoch(model: nn.Module, x: torch.Tensor, y: torch.Tensor, loss: Any) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    for rows in torch.split(order, 64):
        optimizer.zero_grad()
        loss(model(x[rows])["logits"], y[rows]).mean().backward()
        optimizer.step()


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "dropt", "run", *arguments, "--state", "state"], cwd=folder, capture_output=True,
        text=True, check=False, timeout=DEADLINE_S, env={**os.environ, **environment},
    )  # fmt: skip


IMAGES = '''
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset


class Images(Dataset):
    """Images on disk, shifted at random in training."""

    def __init__(self, folder=Path(__file__).parent / "images"):
        self.paths = sorted(folder.glob("*.png"))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, row):
        with Image.open(self.paths[row]) as image:
            x = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)
        return x[None], int(self.paths[row].stem.split("-")[1])

    def transform(self, x, generator):
        return x.roll(int(torch.randint(3, (), generator=generator)), -1)


class Net(nn.Module):
    def __init__(self, n_outputs: int, channels: int = 4):
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 3, padding=1)
        self.head = nn.Linear(64 * channels, n_outputs)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).flatten(1))
'''


def test_file_with_a_model_and_images_on_disk_gives_an_answer(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "net.py").write_text(IMAGES)
    generator = np.random.default_rng(0)
    for row in range(300):
        pixels = generator.integers(0, 150, (8, 8), dtype=np.uint8)
        pixels[2 * (row % 3)] += 60
        Image.fromarray(pixels).save(tmp_path / "images" / f"{row:03}-{row % 3}.png")
    done = run(
        tmp_path, "--model", "net.py:Net", "--dataset", "net.py:Images", "--arg", "channels=3",
        *OPTIONS,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "head:out" in done.stdout
    assert "never dropped (output layer)" in done.stdout
    known = json.loads((tmp_path / "state" / "own-code.json").read_text())
    ((job, own),) = known.items()
    assert job.startswith("job_")
    assert own["names"]["model"].startswith("Net-")


@pytest.mark.zoo
def test_hugging_face_model_with_a_frozen_body_gives_an_answer(tmp_path: Path) -> None:
    folder = shutil.copytree(EXAMPLES / "hugging_face", tmp_path / "hf")
    subprocess.run([sys.executable, "make_weights.py"], cwd=folder, check=True)
    assert (folder / "body.safetensors").stat().st_size < 200_000
    (folder / "job.json").write_text('{"evidence": false, "compare": {"arms": ["with"]}}')
    done = run(
        folder, "job.json", "--model", "bert.py:classifier", "--dataset", "brackets.py:data",
        "--trials", "2", "--epochs", "1", "--workers", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "dense:in" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "net.py:Net", "--dataset", "net.py:raising"], "OSError: no disk"),
        (["--model", "net.py:Net", "--dataset", "digits", "--server", "http://127.0.0.1:9"],
         "runs no code that is sent to it"),
    ],
)  # fmt: skip
def test_wrong_code_is_one_sentence_and_status_2(
    tmp_path: Path, options: list[str], said: str
) -> None:
    (tmp_path / "net.py").write_text(IMAGES + "\n\ndef raising():\n    raise OSError('no disk')\n")
    done = run(tmp_path, *options)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_model_that_fails_on_its_data_fails_the_job_with_that_reason(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(IMAGES)
    done = run(tmp_path, "--model", "net.py:Net", "--dataset", "digits", *OPTIONS)
    assert done.returncode == 1
    assert "The job failed" in done.stdout
    assert "forward fails on inputs of shape" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
