"""Code of the users' own: from files and from installed packages, and what is broken in it."""

import importlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from dropt.client import Client
from dropt.errors import DigestMismatch
from dropt_trainer.device import choose
from dropt_trainer.worker.looking import look
from dropt_trainer.worker.plugins import PluginError, from_files, installed, load_object
from dropt_trainer.worker.registration import registration
from dropt_trainer.worker.sources import DataSource, Wanted

if TYPE_CHECKING:
    from dropt.spec.protocol import SplitName

CODE = """
import torch
from torch import nn
from near import WIDTH

class Net(nn.Module):
    tasks = ("classification",)
    def __init__(self, n_outputs: int, width: int = WIDTH):
        super().__init__()
        self.head = nn.Linear(4, n_outputs)
    def forward(self, x):
        return self.head(x)

def data():
    print("reading")
    x = torch.arange(80.).reshape(20, 4)
    return x, torch.arange(20) % 2

def broken_data():
    raise OSError("the disk is away")

def loss(output, target):
    return nn.functional.cross_entropy(output, target, reduction="none")

def needs(activation: nn.Module):
    return activation

number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "near.py").write_text("WIDTH = 8\n")
    path = tmp_path / "net.py"
    path.write_text(CODE)
    yield path
    if str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))
    sys.modules.pop("near", None)


def test_file_gives_model_data_and_loss_under_names_with_a_digest(file: Path) -> None:
    found = from_files([f"{file}:Net"], [f"{file}:data"], [f"{file}:loss"])
    ((model, own),) = found.models.items()
    ((name, dataset),) = found.datasets.items()
    ((loss, _),) = found.losses.items()
    digest = load_object(f"{file}:Net").sha256
    assert (model, loss) == (f"Net-{digest[:8]}", f"loss-{digest[:8]}")
    assert name == dataset.name == f"data-{dataset.sha256[:8]}"
    assert own.package == f"net.py sha256:{digest}"
    assert own.tasks == ("classification",)


def test_another_file_is_another_model_and_the_same_rows_are_the_same_data(file: Path) -> None:
    before = from_files([f"{file}:Net"], [f"{file}:data"])
    file.write_text(CODE + "\n# a remark\n")
    after = from_files([f"{file}:Net"], [f"{file}:data"])
    assert before.models.keys() != after.models.keys()
    assert before.datasets.keys() == after.datasets.keys()


def test_registration_offers_them_beside_the_built_in_ones(file: Path) -> None:
    found = from_files([f"{file}:Net"], [f"{file}:data"], [f"{file}:loss"])
    said = registration("test", choose("cpu"), 4, found)
    offer = said.models[-1]
    assert offer.name in found.models
    assert offer.tasks == ("classification",)
    assert "width" in str(offer.args_schema)
    assert said.datasets[-1].rows == 20
    names = [loss.name for loss in said.losses]
    assert {"cross_entropy", "mse", *found.losses} <= set(names)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("absent.py:Net", "There is no file"),
        ("net.py:Nett", "defines no 'Nett'; it has"),
        ("net.py:number", "number cannot be used: .*int, and no factory"),
        ("net.py:needs", "needs the argument 'activation'"),
        ("wrong.py:Net", "wrong.py cannot be imported: SyntaxError"),
        ("raising.py:Net", "raising.py cannot be imported: ZeroDivisionError"),
    ],
)
def test_model_that_cannot_be_used_is_refused_in_words(file: Path, spec: str, said: str) -> None:
    (file.parent / "wrong.py").write_text("def Net(:\n")
    (file.parent / "raising.py").write_text("1 / 0\n")
    with pytest.raises(PluginError, match=said) as error:
        from_files([f"{file.parent}/{spec}"])
    assert "Traceback" not in error.value.detail


def test_data_and_loss_that_cannot_be_used_are_refused_in_words(file: Path) -> None:
    with pytest.raises(PluginError, match="OSError: the disk is away"):
        from_files(datasets=[f"{file}:broken_data"])
    with pytest.raises(PluginError, match="int is no function that returns a data set"):
        from_files(datasets=[f"{file}:number"])
    with pytest.raises(PluginError, match="int is no function of output and target"):
        from_files(losses=[f"{file}:number"])


def test_look_says_the_names_of_a_worker(file: Path) -> None:
    names = look({"model": f"{file}:Net", "dataset": f"{file}:data"})
    found = from_files([f"{file}:Net"], [f"{file}:data"])
    assert names == {"model": next(iter(found.models)), "dataset": next(iter(found.datasets))}


def test_unknown_loss_is_refused(file: Path) -> None:
    with pytest.raises(PluginError, match="no loss 'focal'"):
        from_files().loss("focal")
    assert from_files().loss("mse") == "mse"


@pytest.fixture
def package(file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with entry points, some of them broken."""
    site = file.parent / "site"
    (site / "own_stuff-2.0.dist-info").mkdir(parents=True)
    (site / "own_stuff-2.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: own-stuff\nVersion: 2.0\n"
    )
    (site / "own_stuff-2.0.dist-info" / "entry_points.txt").write_text(
        "[dropt.models]\nown_net = own_stuff:Net\nmlp = own_stuff:Net\nlost = own_stuff:Lost\n"
        "[dropt.datasets]\nown_data = own_stuff:data\naway = own_stuff:broken_data\n"
        "[dropt.losses]\nown_loss = own_stuff:loss\nbad = raises_at_import:loss\n"
    )
    (site / "own_stuff.py").write_text(CODE)
    (site / "raises_at_import.py").write_text("raise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(str(file.parent))
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    return site


def test_entry_points_are_offered_and_broken_ones_logged(
    package: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        found = installed()
    assert list(found.models) == ["own_net"]
    assert list(found.datasets) == ["own_data"]
    assert list(found.losses) == ["own_loss"]
    assert found.models["own_net"].package == "own-stuff 2.0"
    assert found.datasets["own_data"].source == "own-stuff 2.0"
    said = {vars(r)["plugin"]: (r.message, vars(r)["why"]) for r in caplog.records}
    assert said["mlp"] == ("plugin.ignored", "the name is taken")
    assert said["lost"][0] == "plugin.broken"
    assert said["away"] == ("plugin.broken", "OSError: the disk is away")
    assert said["bad"] == ("plugin.broken", "RuntimeError: no licence")


def test_digest_that_is_not_the_own_data_sets_is_refused(file: Path) -> None:
    own = from_files(datasets=[f"{file}:data"]).datasets
    ((name, dataset),) = own.items()
    source = DataSource(Client("http://x"), torch.device("cpu"), own)
    parts: tuple[SplitName, ...] = ("train", "validation")
    wanted = Wanted(name, dataset.sha256, None, None, parts, "float32")
    assert source.prepare(wanted).n_outputs == 2
    with pytest.raises(DigestMismatch):
        source.prepare(Wanted(name, "0" * 64, None, None, parts, "float32"))
