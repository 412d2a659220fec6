"""`FILE.py:NAME`: a model, a data set or a loss of the user's own, for one run on this machine.

The code runs in processes that this command starts, never in a service: whoever may submit a job
to a service must not be able to run code there.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dropt.cli.body import Body, name_in, set_name
from dropt.cli.problems import Refused

MODULE = "dropt_trainer.worker.looking"
KEPT = "own-code.json"  # in the state folder: what each job was run with, to resume it
FIELDS = ("model", "dataset")
_SPEC = re.compile(r".*\.py:[A-Za-z_][A-Za-z0-9_.]*")
_MODULE = re.compile(r".*\.py:?")


@dataclass(frozen=True)
class OwnCode:
    """What comes from files, by kind: `model`, `dataset`, `loss`; each `/path/FILE.py:NAME`."""

    specs: Mapping[str, str] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        """Options of a worker that offers it."""
        return [text for kind, spec in self.specs.items() for text in (f"--{kind}", spec)]


def own_code(body: Body) -> OwnCode:
    """What of a job is code of the user's own.

    Raises:
        Refused: a Python file without a name in it, or a file that is not there.
    """
    training = body.get("training")
    loss = training.get("loss") if isinstance(training, dict) else None
    named = {name: name_in(body, name) for name in FIELDS} | {"loss": loss}
    specs = {
        kind: text for kind, text in named.items() if isinstance(text, str) and _is_spec(text)
    }
    return OwnCode({kind: _absolute(text) for kind, text in specs.items()})


def refuse_at_server(own: OwnCode, server: str | None) -> None:
    """Raise Refused when code from a file is to run at a service."""
    if own.specs and server is not None:
        kind, spec = next(iter(own.specs.items()))
        raise Refused(
            f"{spec} is code on this machine, and {server} runs no code that is sent to it. Leave "
            f"out --server; or install it on the workers as a package with an entry point in "
            f"dropt.{kind}{'es' if kind == 'loss' else 's'}, and name that."
        )


def look(own: OwnCode) -> dict[str, str]:
    """The names in jobs, by kind: they hold a digest of the file, or of the rows of a data set.

    Raises:
        Refused: the code cannot be used; the detail says why.
    """
    if not own.specs:
        return {}
    process = subprocess.run(  # noqa: S603 (our own module, no shell)
        [sys.executable, "-m", MODULE, *own.arguments()],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        said = json.loads(process.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        last = (process.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise Refused(f"Your code ended the process that looked at it: {last}") from None
    if "error" in said:
        raise Refused(said["error"])
    return {str(kind): str(name) for kind, name in said.items()}


def with_names(body: Body, names: Mapping[str, str]) -> Body:
    """The body with the names in place of files."""
    for name in FIELDS:
        if name in names:
            body = set_name(body, name, names[name])
    if "loss" in names:
        body = {**body, "training": {**body.get("training", {}), "loss": names["loss"]}}
    return body


def keep(state: Path, job_id: str, own: OwnCode, names: Mapping[str, str]) -> None:
    """Note what a job was run with."""
    if own.specs:
        known = _kept(state) | {job_id: {"specs": dict(own.specs), "names": dict(names)}}
        (state / KEPT).write_text(json.dumps(known, indent=1) + "\n", "utf-8")


def kept(state: Path, job_id: str) -> OwnCode:
    """What a job was run with, if it still is what it was.

    Raises:
        Refused: a file, or the rows of a data set, have changed since.
    """
    known = _kept(state).get(job_id)
    if known is None:
        return OwnCode()
    own = OwnCode(known["specs"])
    for kind, name in look(own).items():
        if name != known["names"][kind]:
            raise Refused(
                f"{own.specs[kind]} has changed since {job_id} began: {known['names'][kind]} was "
                f"{name} is. The job cannot go on with it; bring it back, or run it anew."
            )
    return own


def parse_arguments(texts: Sequence[str]) -> dict[str, object]:
    """Arguments of a model from `name=value` texts; a value that is no JSON is a text.

    Raises:
        Refused: one has no name.
    """
    arguments: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise Refused(f"--arg is NAME=VALUE, as in --arg hidden=[128,64]; received '{text}'.")
        try:
            arguments[name] = json.loads(value)
        except ValueError:
            arguments[name] = value
    return arguments


def set_arguments(body: Body, arguments: Mapping[str, object]) -> Body:
    """The body with these arguments of its model; others that it has stay."""
    if not arguments:
        return body
    model = body.get("model")
    named: Body = dict(model) if isinstance(model, dict) else {"name": model}
    return {**body, "model": {**named, "args": {**(named.get("args") or {}), **arguments}}}


def _is_spec(text: str) -> bool:
    if _MODULE.fullmatch(text):
        raise Refused(f"Say what in {text} is meant: {text.rstrip(':')}:NAME.")
    return _SPEC.fullmatch(text) is not None


def _absolute(text: str) -> str:
    file, _, name = text.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise Refused(f"There is no file {file}.")
    return f"{path.resolve()}:{name}"


def _kept(state: Path) -> dict[str, dict[str, dict[str, str]]]:
    try:
        known = json.loads((state / KEPT).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
