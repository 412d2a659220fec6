"""`dropt run` and `dropt resume`: one job with its service, its workers and its answer."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.text import Text

import dropt
from dropt.cli.body import Body, name_in, require_subject, set_name
from dropt.cli.own_code import (
    OwnCode,
    keep,
    kept,
    look,
    own_code,
    refuse_at_server,
    with_names,
)
from dropt.cli.problems import ExitCode, Refused, ServiceEnded
from dropt.cli.workers import require_trainer

if TYPE_CHECKING:  # the rest is imported after the first line is on the screen: it takes a second
    from dropt.cli.answer import NextStep
    from dropt.client import Client

POLL_S = 0.2


@dataclass(frozen=True)
class Place:
    """Where a run happens: on a state folder with workers of its own, or at a service."""

    state: Path
    n_workers: int
    server: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class FileOptions:
    """What `--target` and `--task` say of a data set that is a file."""

    target: str | None = None
    task: str | None = None


def run_job(console: Console, body: Body, options: FileOptions, place: Place) -> ExitCode:
    """Submit a job, follow it, print the answer."""
    from dropt.cli.uploading import as_file, upload

    require_subject(body)
    own = own_code(body)
    refuse_at_server(own, place.server)
    dataset = None if "dataset" in own.specs else name_in(body, "dataset")
    file = as_file(dataset, options.target, options.task) if dataset is not None else None

    def submit(client: "Client", names: Mapping[str, str]) -> str:
        named = with_names(body, names)
        if file is not None:
            named = set_name(named, "dataset", upload(client, file))
        job_id = client.create_job(named).id
        keep(place.state, job_id, own, names)
        return job_id

    return _attend(console, place, submit, own)


def resume_job(console: Console, job_id: str, place: Place) -> ExitCode:
    """Go on with a job of a state folder."""
    if not (place.state / "dropt.db").exists() and "DROPT_DATABASE_URL" not in os.environ:
        raise Refused(
            f"{place.state} holds no database, so no job can go on there. "
            "Name the folder that the job was run in with --state."
        )
    own = kept(place.state, job_id)
    return _attend(console, place, lambda client, _: client.get_job(job_id).id, own)


def _attend(
    console: Console,
    place: Place,
    begin: "Callable[[Client, Mapping[str, str]], str]",
    own: OwnCode,
) -> ExitCode:
    """Begin a job and stay with it to its end, or until Ctrl-C."""
    if place.server is None:
        require_trainer()
    print_head(console, place)
    from dropt.cli.following import follow, print_end
    from dropt.cli.progress import make_progress

    job_id = None
    with ExitStack() as stack:
        try:
            stack.enter_context(_term_as_interrupt())
            with make_progress(console) as progress:
                if own.specs:
                    progress.wait_for(f"reads {', '.join(own.specs.values())}")
                names = look(own)
                progress.wait_for(
                    "starts the service and its workers"
                    if place.server is None
                    else "asks the service"
                )
                client, check = stack.enter_context(_service(place, own, names))
                job_id = begin(client, names)
                job = client.get_job(job_id)
                console.print(Text(f"{job.id} · {job.name}"), soft_wrap=True)
                job = follow(client, job_id, progress, check)
        except ServiceEnded as error:
            go_on = "" if job_id is None else f" Go on with: dropt resume {job_id}{_where(place)}"
            raise ServiceEnded(error.detail + go_on) from error
        except KeyboardInterrupt:
            return _leave(console, client if job_id else None, job_id, place)
        model = own.specs.get("model", job.spec.model.name)
        return print_end(console, client, job, next_steps(job_id, place, model))


def print_head(console: Console, place: Place) -> None:
    """Versions, and where the state is."""
    parts = [f"dropt {dropt.__version__}"]
    if place.server is None:
        parts += [f"torch {metadata.version('torch')}", f"{os.cpu_count()} cores"]
        parts.append(f"state in {place.state} (delete it to start over)")
    else:
        parts.append(f"service at {place.server}")
    console.print(Text(" · ".join(parts)), soft_wrap=True)


def next_steps(job_id: str, place: Place, model: str) -> "Sequence[NextStep]":
    """What can be done with the answer, on this service or this state folder."""
    from dropt.cli.answer import NextStep

    where = _where(place)
    steps = [NextStep("see it", f"dropt show {job_id}{where}")]
    yours = f"dropt run --model {model} --dataset my.csv --target COLUMN{where}"
    steps.append(NextStep("try yours", yours))
    if place.server is None:
        serve = f"dropt serve{where}"
        steps.append(NextStep("HTTP API", f"{serve}  ->  http://127.0.0.1:8000"))
    return steps


@contextmanager
def _service(
    place: Place, own: OwnCode, names: Mapping[str, str]
) -> "Iterator[tuple[Client, Callable[[float], None]]]":
    """A client of a service with a worker, and a check that raises when the service is gone."""
    from dropt.cli.embedded import embedded
    from dropt.client import Client

    if place.server is not None:
        with Client(place.server, key=place.key) as client:
            yield client, lambda patience_s: None
        return
    with (
        embedded(place.state, n_workers=place.n_workers, offers=own.arguments()) as service,
        Client(service.address, key=service.key) as client,
    ):
        client.wait_until_ready(service.check)
        while not _has_worker(client, names):
            service.check()
            time.sleep(POLL_S)
        yield client, service.check


def _has_worker(client: "Client", names: Mapping[str, str]) -> bool:
    """Whether a worker is there, and one that has the user's own model and data."""
    if not any(worker.state == "live" for worker in client.list_workers()):
        return False
    offered = {one.name for one in client.list_models() if one.workers}
    offered |= {one.name for one in client.list_datasets() if one.workers}
    return {name for kind, name in names.items() if kind != "loss"} <= offered


def _leave(
    console: Console, client: "Client | None", job_id: str | None, place: Place
) -> ExitCode:
    """Say what is known and how to go on; on a service elsewhere the job goes on by itself."""
    from dropt.cli.following import print_so_far

    where = _where(place)
    if client is None or job_id is None:
        console.print(Text("\nStopped before there was a job."))
    elif place.server is None:
        print_so_far(console, client, job_id, f"Go on with: dropt resume {job_id}{where}")
    else:
        goes_on = f"It goes on at {place.server}. Stop it with: dropt cancel {job_id}{where}"
        print_so_far(console, client, job_id, goes_on)
    return ExitCode.INTERRUPTED


def _where(place: Place) -> str:
    if place.server is not None:
        return f" --server {place.server}"
    return "" if place.state == Path(".dropt") else f" --state {place.state}"


@contextmanager
def _term_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end a run the way Ctrl-C does."""

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
