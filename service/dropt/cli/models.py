"""`dropt models`: what workers offer, and where dropout can act in a model."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dropt.cli import figures
from dropt.cli.connection import running_address
from dropt.cli.embedded import embedded
from dropt.cli.hosting import local_key
from dropt.cli.problems import ExitCode
from dropt.cli.progress import make_console
from dropt.cli.reading import printable
from dropt.cli.uploading import as_file, upload
from dropt.cli.workers import require_trainer
from dropt.client import Client
from dropt.errors import InvalidRequest
from dropt.spec.catalogue import ModelRead
from dropt.spec.inspection import Excluded, Inspection, Site
from dropt.spec.preview import LookPending

WAIT_S = 20  # of one request; then it is asked again
POLL_S = 0.2
BATCH_NORMS = {"direct": "before a batch norm", "downstream": "a batch norm comes later"}
Ranges = Mapping[str, tuple[float, float]]


@contextmanager
def with_worker(server: str | None, key: str | None, state: Path) -> Iterator[Client]:
    """A client of the service that is named or runs, else of one with a worker for the block."""
    address = server or running_address(state)
    if address is not None:
        with Client(address, key=key or (None if server else local_key(state))) as client:
            yield client
        return
    require_trainer()
    with (
        embedded(state, n_workers=1) as service,
        Client(service.address, key=service.key) as client,
    ):
        client.wait_until_ready(service.check)
        while not any(worker.state == "live" for worker in client.list_workers()):
            service.check()
            time.sleep(POLL_S)
        yield client


def list_models(client: Client, *, as_json: bool) -> ExitCode:
    """Print the models that workers offer."""
    found = client.list_models()
    if as_json:
        print("[" + ",\n".join(model.model_dump_json(indent=2) for model in found) + "]")
    elif found:
        make_console().print(models_table(found), soft_wrap=True)
    else:
        print("No worker has offered a model so far. Start one: dropt serve --workers 1")
    return ExitCode.OK


def models_table(models: Iterable[ModelRead]) -> Table:
    """One row for each model: its tasks, its arguments with their defaults, its workers."""
    table = _table("model", "tasks", "arguments", "workers")
    for model in models:
        arguments = ", ".join(_argument(*each) for each in _properties(model).items())
        cells = (model.name, ", ".join(model.tasks), arguments, str(model.workers))
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def show_sites(
    client: Client, model: str, dataset: str, args: Mapping[str, Any], *, target: str | None,
    task: str | None, as_json: bool,
) -> ExitCode:  # fmt: skip
    """Print a model with its sites on a data set, the places refused, and the findings."""
    file = as_file(dataset, target, task)
    name = dataset if file is None else upload(client, file)
    found = look(client, model, name, args)
    if as_json:
        print(found.model_dump_json(by_alias=True, indent=2))
        return ExitCode.OK
    ranges = ranges_of(client, model, name, args)
    print_sites(make_console(), f"{model} on {name}", found, ranges)
    return ExitCode.OK


def look(client: Client, model: str, dataset: str, args: Mapping[str, Any]) -> Inspection:
    """The sites of a model, once a worker has looked; says on standard error what it waits for."""
    said = None
    while True:
        found = client.inspect_model(model, dataset, args=args, wait_s=WAIT_S)
        if not isinstance(found, LookPending):
            return found
        if found.reason != said:
            said = found.reason
            print(said, file=sys.stderr)


def ranges_of(client: Client, model: str, dataset: str, args: Mapping[str, Any]) -> Ranges:
    """The range of each site that a job would search by itself; a model may have none."""
    try:
        body = {"model": {"name": model, "args": dict(args)}, "dataset": dataset}
        space = client.preview_job(body).space
    except InvalidRequest:
        return {}
    groups = () if space is None else space.groups
    return {site: (group.low, group.high) for group in groups for site in group.sites}


def print_sites(console: Console, title: str, found: Inspection, ranges: Ranges) -> None:
    """Everything of an inspection in three tables."""
    outputs = ", ".join(found.output_layers) or "none (headless)"
    head = f"{title} · {found.parameters:,} parameters · output layer: {outputs}"
    _say(console, head)
    _say(console, f"fingerprint {found.fingerprint}")
    console.print()
    if found.sites:
        console.print(sites_table(found.sites, ranges), soft_wrap=True)
    else:
        _say(console, "There is no place where dropout can act beside the output layer.")
    if found.excluded:
        console.print()
        console.print(refused_table(found.excluded), soft_wrap=True)
    for finding in found.findings:
        console.print()
        _say(console, f"{finding.code} at {finding.site}: {finding.message}")
        _say(console, f"  {finding.remedy}")
    if found.probe is not None:
        console.print()
        slots = figures.count(found.probe.slots, "trial")
        _say(console, f"Trains {slots} at once in the {found.probe.lane} lane: {found.probe.why}")


def sites_table(sites: Iterable[Site], ranges: Ranges) -> Table:
    """One row for each site in the order of the model."""
    table = _table("site", "layer", "role", "kinds", "default", "range", "now", "why")
    for site in sites:
        low_high = ranges.get(site.site)
        shown = "" if low_high is None else " - ".join(figures.rate(end) for end in low_high)
        now = "" if site.existing_rate is None else figures.rate(site.existing_rate)
        cells = (
            site.site, site.layer, site.role, ", ".join(site.kinds),
            "on" if site.recommended else "off", shown, now, _why(site),
        )  # fmt: skip
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def refused_table(excluded: Iterable[Excluded]) -> Table:
    """One row for each place that was looked at and refused."""
    table = _table("refused", "why")
    for one in excluded:
        why = one.reason.replace("_", " ")
        if one.covered_by is not None:
            why = f"covered by {one.covered_by}"
        table.add_row(Text(printable(one.site)), Text(printable(why)))
    return table


def _why(site: Site) -> str:
    notes = [site.reason or BATCH_NORMS.get(site.batch_norm, "")]
    if site.calls > 1:
        notes.append(f"called {site.calls} times")
    return "; ".join(note for note in notes if note)


def _properties(model: ModelRead) -> dict[str, Any]:
    found = model.args_schema.get("properties")
    return found if isinstance(found, dict) else {}


def _argument(name: str, schema: Any) -> str:
    default = schema.get("default") if isinstance(schema, dict) else None
    return name if default is None else f"{name}={default}"


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, no_wrap=name == names[0], overflow="fold")
    return table


def _say(console: Console, text: str) -> None:
    console.print(Text(printable(text)), soft_wrap=True)
