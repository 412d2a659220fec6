"""The command as it is called: a process, what it prints, and its status."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.processes import DEADLINE_S

from dropt.cli import commands, main, problems
from dropt.cli.problems import ExitCode

HEAVY = (
    "torch",
    "optuna",
    "sqlalchemy",
    "fastapi",
    "alembic",
    "uvicorn",
    "numpy",
    "pydantic_core",
)


SMALLEST = """
import typer
app = typer.Typer()
@app.command()
def one(n: int = 1) -> None: "One."
@app.command()
def two() -> None: "Two."
app()
"""


def dropt(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dropt.cli.main", *arguments], capture_output=True, text=True,
        timeout=DEADLINE_S, env={**os.environ, **environment}, check=False,
    )  # fmt: skip


def imported_for_help(*program: str) -> tuple[set[str], str]:
    """The modules that a program imports to print its help, and the help."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *program, "--help"],
        capture_output=True, text=True, timeout=DEADLINE_S, check=True,
    )  # fmt: skip
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "typer" in imported, "the list of imports was not read"
    return imported, done.stdout


def test_help_imports_nothing_heavy() -> None:
    imported, shown = imported_for_help("-m", "dropt.cli.main")
    assert imported.isdisjoint(HEAVY)
    for name in ("run", "resume", "serve", "submit", "ps", "show", "cancel", "logs", "db"):
        assert re.search(rf"\b{name}\b", shown)


def test_help_is_as_quick_as_that_of_two_empty_commands() -> None:
    """By what it imports, of some 300 modules: seconds would depend on the machine."""
    imported, _ = imported_for_help("-m", "dropt.cli.main")
    smallest, _ = imported_for_help("-c", SMALLEST)
    assert len(imported - smallest) <= 15, imported - smallest


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("sbumit",), ExitCode.USAGE, "Did you mean 'submit'?"),
        (("run",), ExitCode.USAGE, "--model and --dataset missing"),
        (("run", "--model", "mlp", "--dataset", "none.csv"), ExitCode.USAGE, "no file none.csv"),
        (("run", "none.json"), ExitCode.USAGE, "none.json cannot be read"),
        (("run", "--model", "mlp", "--dataset", "d", "--workers", "0"), ExitCode.USAGE,
         "--workers is 'auto' or a number from 1 on, received '0'"),
        (("run", "--effort", "heroic"), ExitCode.USAGE, "heroic"),
        (("show",), ExitCode.USAGE, "Missing argument 'JOB'"),
        (("serve", "--host", "0.0.0.0"), ExitCode.USAGE, "Other machines can reach 0.0.0.0"),
        (("resume", "job_1"), ExitCode.USAGE, "--state"),
        (("ps", "--server", "http://127.0.0.1:9"), ExitCode.UNREACHABLE, "dropt serve"),
        (("submit", "--model", "m", "--dataset", "d", "--server", "http://127.0.0.1:9"),
         ExitCode.UNREACHABLE, "No service answers"),
    ],
)  # fmt: skip
def test_failure_is_a_sentence_and_a_status(
    arguments: tuple[str, ...], status: ExitCode, said: str, tmp_path: Path
) -> None:
    done = dropt(*arguments, DROPT_STATE=str(tmp_path / "state"))
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_help_without_a_verb_is_wrong_usage() -> None:
    done = dropt()
    assert done.returncode == ExitCode.USAGE
    assert "Usage: dropt" in done.stdout


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (problems.WorkerMissing("no torch"), ExitCode.USAGE),
        (OSError(28, "No space left on device", "x.db"), ExitCode.USAGE),
        (ZeroDivisionError("nobody foresaw this"), ExitCode.UNREACHABLE),
    ],
)
def test_what_a_command_raises_becomes_a_status(
    raised: BaseException, status: ExitCode, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(*arguments: object, **options: object) -> object:
        raise raised

    monkeypatch.setattr("dropt.cli.running.run_job", fail)
    assert main.run(["run", "--model", "mlp", "--dataset", "digits", "--workers", "1"]) == status
    assert "Traceback" not in capsys.readouterr().err


def test_installation_without_torch_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    find_spec = importlib.util.find_spec

    def without_torch(name: str, package: str | None = None) -> object:
        return None if name == "torch" else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_torch)
    status = main.run(
        ["run", "--model", "mlp", "--dataset", "digits", "--state", str(tmp_path / "s")]
    )
    assert status == ExitCode.USAGE
    assert "dropt[trainer]" in capsys.readouterr().err


def test_number_of_workers_is_read_from_its_option() -> None:
    assert commands._count("3", least=1) == 3
    assert commands._count("auto", least=1) >= 1
    assert commands._count("0", least=0) == 0
