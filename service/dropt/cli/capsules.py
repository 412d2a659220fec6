"""Capsules: write what trains one trial again, and train it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from dropt.cli.problems import ExitCode
from dropt.cli.progress import make_console
from dropt.cli.workers import require_trainer
from dropt.client import Client


def write_capsule(client: Client, trial_id: str, folder: Path) -> ExitCode:
    """Write `TRIAL.json` into a folder, beside it the data where it was uploaded."""
    capsule = client.get_capsule(trial_id)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{capsule.trial.id}.json"
    path.write_text(capsule.model_dump_json(by_alias=True, indent=2) + "\n")
    data = capsule.dataset
    if data.content is not None:
        client.fetch(data.content, data.sha256, folder / f"{data.sha256}.npz")
    print(path)
    return ExitCode.OK


def reproduce(path: Path, device: str | None, *, as_json: bool) -> ExitCode:
    """Train the trial of a capsule and compare; status 1 when another curve came out.

    Raises:
        WorkerMissing: the trainer is not installed.
    """
    require_trainer()
    options = [] if device is None else ["--device", device]
    done = subprocess.run(  # noqa: S603 (our own module, no shell)
        [sys.executable, "-m", "dropt_trainer.worker.reproduction", path, *options],
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        return ExitCode.USAGE  # the trainer has said why
    found = json.loads(done.stdout)
    if as_json:
        print(done.stdout)
    else:
        for line in comparison_lines(found):
            make_console().print(line, soft_wrap=True)
    return ExitCode.OK if found["is_same"] else ExitCode.JOB_FAILED


def comparison_lines(found: dict[str, Any]) -> tuple[str, ...]:
    """What came out, and what rounding alone would do."""
    then, now = found["validation_loss"]
    word = "The same curve" if found["is_same"] else "ANOTHER curve"
    return (
        f"{word} over {found['epochs']} epochs: validation loss {then} then, {now} now.",
        f"Largest relative difference {found['difference']:.1e}; up to {found['allowed']:.1e} is "
        f"rounding (one step in the initial weights alone makes {found['rounding']:.1e}).",
        "Masks, initial weights and data order are functions of the seed: the same bit for bit.",
    )
