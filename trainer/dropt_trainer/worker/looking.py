"""A look at code of the user's own, before a service is started for it.

`python -m dropt_trainer.worker.looking --model FILE.py:NAME ...` prints its names in jobs as JSON,
or an `error` in words.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence

from dropt.errors import DroptError
from dropt_trainer.worker.plugins import GROUPS, Plugins, from_files


def look(specs: dict[str, str]) -> dict[str, str]:
    """The names in jobs by kind of `FILE.py:NAME` texts by kind. Raises PluginError."""
    given = {kind: [spec] for kind, spec in specs.items()}
    found = from_files(given.get("model", ()), given.get("dataset", ()), given.get("loss", ()))
    return {kind: names[0] for kind, names in _names(found).items() if names}


def _names(found: Plugins) -> dict[str, list[str]]:
    return {
        "model": list(found.models), "dataset": list(found.datasets), "loss": list(found.losses),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the names, or why there are none; what the user's code prints goes to stderr."""
    parser = argparse.ArgumentParser(prog="dropt_trainer.worker.looking")
    for kind in GROUPS:
        parser.add_argument(f"--{kind}", metavar="FILE.py:NAME")
    options = {kind: spec for kind, spec in vars(parser.parse_args(arguments)).items() if spec}
    try:
        with contextlib.redirect_stdout(sys.stderr):
            said = look(options)
    except DroptError as error:
        said = {"error": error.detail}
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
