"""The C kernels: built where they can be, refused in one line elsewhere, right against torch."""

import ctypes
import logging
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dropt_trainer import native
from dropt_trainer.native import load_library


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A first load in this process, with caches of its own; the real one is restored after it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(native, "SHIPPED", tmp_path / "none.so")
    load_library.cache_clear()
    yield tmp_path
    load_library.cache_clear()


def kernels() -> ctypes.CDLL:
    library = load_library()
    if library is None:
        pytest.skip("this machine has no C compiler")
    return library


needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@needs_compiler
def test_kernels_are_built_once_into_the_users_cache(
    fresh: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert load_library() is not None
    (built,) = (fresh / "cache" / "dropt").iterdir()
    assert built.suffix == ".so"
    assert (fresh / "cache" / "dropt").stat().st_mode & 0o777 == 0o700
    before = built.stat().st_mtime_ns
    load_library()
    load_library.cache_clear()
    load_library()
    assert built.stat().st_mtime_ns == before
    assert events(caplog) == ["native.ready"] * 2


@needs_compiler
def test_library_that_came_with_the_package_needs_no_compiler_and_no_folder(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shipped = fresh / "dropt.so"
    native.build(shipped)
    monkeypatch.setattr(native, "SHIPPED", shipped)
    monkeypatch.setenv("PATH", "")
    assert load_library() is not None
    assert not (fresh / "cache").exists()
    assert [vars(record)["path"] for record in caplog.records] == [str(shipped)]


@needs_compiler
def test_library_shipped_for_another_machine_is_built_here(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fresh / "dropt.so").write_bytes(b"not for this machine")
    monkeypatch.setattr(native, "SHIPPED", fresh / "dropt.so")
    assert load_library() is not None
    assert list((fresh / "cache" / "dropt").glob("*.so"))


@needs_compiler
@pytest.mark.slow
def test_damaged_library_in_the_cache_is_built_again(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_library() is not None
    (built,) = (fresh / "cache" / "dropt").iterdir()
    damaged = fresh / "other" / "dropt" / built.name  # a path that the process has not loaded yet
    damaged.parent.mkdir(parents=True, mode=0o700)
    damaged.write_bytes(b"not a library")
    monkeypatch.setenv("XDG_CACHE_HOME", str(fresh / "other"))
    load_library.cache_clear()
    assert load_library() is not None
    assert damaged.read_bytes() == built.read_bytes()


@needs_compiler
def test_without_a_writable_home_the_temporary_folder_is_used(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fresh / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(fresh / "file"))  # a folder cannot be made in it
    assert load_library() is not None
    assert list((fresh / "temporary" / f"dropt-{os.getuid()}").glob("*.so"))


@needs_compiler
def test_folder_that_others_can_write_is_not_trusted(fresh: Path) -> None:
    (fresh / "cache" / "dropt").mkdir(parents=True)
    (fresh / "cache" / "dropt").chmod(0o777)
    assert load_library() is not None
    assert not list((fresh / "cache" / "dropt").iterdir())


def test_without_a_compiler_there_are_no_kernels_and_one_line_says_why(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(fresh))
    assert load_library() is None
    assert load_library() is None
    (record,) = caplog.records
    assert record.getMessage() == "native.unavailable"
    assert "no C compiler" in vars(record)["why"]
    assert "\n" not in vars(record)["why"]


@needs_compiler
def test_compiler_that_fails_is_reported_by_its_first_line(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiler = fresh / "cc"
    compiler.write_text("#!/bin/sh\necho 'cannot compile today' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fresh}:/bin:/usr/bin")
    assert load_library() is None
    assert "cannot compile today" in vars(caplog.records[0])["why"]
    assert not list((fresh / "cache" / "dropt").iterdir())


def test_kernels_can_be_turned_off(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DROPT_NATIVE", "0")
    assert load_library() is None
    assert "DROPT_NATIVE" in vars(caplog.records[0])["why"]
    assert not (fresh / "cache").exists()


K, N_STEPS = 3, 12
SHAPES = ((5, 4), (7,), (1, 9))  # 36 parameters: no multiple of a vector's width
P = sum(math.prod(shape) for shape in SHAPES)
COLUMNS: dict[str, list[float]] = {
    "lr": [1e-2, 3e-3, 0.1],
    "wd": [0.0, 0.1, 0.3],
    "l1": [0.0, 1e-2, 0.0],
    "l2": [0.0, 3e-2, 1e-3],
    "clip": [0.0, 0.5, math.inf],
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def split(row: Tensor) -> list[Tensor]:
    sizes = [math.prod(shape) for shape in SHAPES]
    return [part.view(shape) for part, shape in zip(torch.split(row, sizes), SHAPES, strict=True)]


def decayed() -> Tensor:
    flags = [torch.full((math.prod(shape),), len(shape) >= 2) for shape in SHAPES]
    return torch.cat(flags).to(torch.uint8)


def run_kernel(optimizer: str, weights: Tensor, gradients: Tensor, active: list[int]) -> Tensor:
    """Weights after all steps; gradients [steps, K, P]."""
    library = kernels()
    w, first, second = weights.clone(), torch.zeros(K, P), torch.zeros(K, P)
    columns = [torch.tensor(values) for values in COLUMNS.values()]
    flags, mask = torch.tensor(active, dtype=torch.uint8), decayed()
    for step, gradient in enumerate(gradients.contiguous()):
        age = torch.full((K,), step + 1, dtype=torch.int32)
        if optimizer == "adamw":
            operands = [w, gradient, first, second, *columns, age, mask, flags]
            library.dropt_adamw(*(t.data_ptr() for t in operands), K, P)
        else:
            operands = [w, gradient, first, *columns, mask, flags]
            library.dropt_sgd(*(t.data_ptr() for t in operands), K, P)
    return w


def run_torch(optimizer: str, weights: Tensor, gradients: Tensor, slot: int) -> Tensor:
    """One slot in float64, as one would write it with torch.optim."""
    at = {name: values[slot] for name, values in COLUMNS.items()}
    parameters = [part.double().clone().requires_grad_() for part in split(weights)]
    if optimizer == "adamw":
        chosen: torch.optim.Optimizer = torch.optim.AdamW(
            parameters, lr=at["lr"], weight_decay=at["wd"]
        )
    else:
        chosen = torch.optim.SGD(parameters, lr=at["lr"], momentum=0.9, nesterov=True)
    for gradient in gradients:
        loss = sum(
            (p * g).sum() for p, g in zip(parameters, split(gradient.double()), strict=True)
        )
        for parameter in parameters:
            if parameter.ndim >= 2:
                loss = (
                    loss + at["l1"] * parameter.abs().sum() + at["l2"] * parameter.square().sum()
                )
        chosen.zero_grad()
        assert isinstance(loss, Tensor)
        torch.autograd.backward(loss)
        if 0 < at["clip"] < math.inf:
            torch.nn.utils.clip_grad_norm_(parameters, at["clip"])
        if optimizer == "sgd":  # decoupled, unlike torch.optim.SGD's own weight_decay
            with torch.no_grad():
                for parameter in parameters:
                    parameter.mul_(1 - at["lr"] * at["wd"])
        chosen.step()
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


@pytest.mark.parametrize("slot", range(K))
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_optimizer_kernel_agrees_with_torch_optim(optimizer: str, slot: int) -> None:
    """float32 against float64 over 12 steps: rounding of 1e-7 per step, and clip's 1e-6."""
    weights, gradients = normal(K, P), normal(N_STEPS, K, P, seed=1)
    result = run_kernel(optimizer, weights, gradients, active=[1] * K)
    expected = run_torch(optimizer, weights[slot], gradients[:, slot], slot)
    torch.testing.assert_close(result[slot].double(), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_slots_do_not_mix_and_inactive_ones_are_left(optimizer: str) -> None:
    weights, gradients = normal(K, P), normal(N_STEPS, K, P, seed=1)
    all_active = run_kernel(optimizer, weights, gradients, active=[1] * K)
    broken = gradients.clone()
    broken[:, 1] = math.nan
    result = run_kernel(optimizer, weights, broken, active=[1, 0, 1])
    assert torch.equal(result[1], weights[1])
    assert torch.equal(result[[0, 2]], all_active[[0, 2]])
    result = run_kernel(optimizer, weights, broken, active=[1, 1, 1])
    assert bool(result[1].isnan().all())
    assert torch.equal(result[[0, 2]], all_active[[0, 2]])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_learning_rate_zero_leaves_the_weights(
    optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(COLUMNS, "lr", [0.0, 0.0, 0.0])
    weights = normal(K, P)
    result = run_kernel(optimizer, weights, normal(N_STEPS, K, P, seed=1), active=[1] * K)
    assert torch.equal(result, weights)
