"""The commands and their options; each imports what it needs when it runs."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dropt.cli.body import Body

app = typer.Typer(
    name="dropt",
    help="Does dropout help this network, where, how much, and how sure are we?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
database = typer.Typer(help="The database of a state folder.", no_args_is_help=True)
app.add_typer(database, name="db")


class Effort(StrEnum):
    """Most seeds of the evidence: 8, 20 or 30."""

    quick = "quick"
    default = "default"
    thorough = "thorough"


class Task(StrEnum):
    """What the target column of a file is."""

    classification = "classification"
    regression = "regression"


State = Annotated[
    Path, typer.Option(envvar="DROPT_STATE", help="Folder of the databases, artifacts and logs.")
]
Server = Annotated[
    str | None,
    typer.Option(envvar="DROPT_SERVER", metavar="URL", help="A service that runs already."),
]
Key = Annotated[
    str | None, typer.Option(envvar="DROPT_KEY", help="Key for that service.", show_envvar=True)
]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Id of a job: job_...")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer of the API.")]
Workers = Annotated[
    str,
    typer.Option(metavar="N|auto", help="Worker processes; auto: one per GPU, else one per core."),
]
Model = Annotated[str | None, typer.Option(metavar="NAME", help="A model: mlp, cnn, ...")]
DatasetOption = Annotated[
    str | None, typer.Option(metavar="NAME|FILE", help="A data set, or a csv or npz file.")
]
Target = Annotated[str | None, typer.Option(metavar="COLUMN", help="Column to predict (csv).")]
TaskOption = Annotated[
    Task | None, typer.Option(help="What the target is; the file's values decide by default.")
]
Minutes = Annotated[float | None, typer.Option(min=0.05, help="Time limit of the job.")]
EffortOption = Annotated[Effort | None, typer.Option(help="How much is spent on the verdict.")]
Trials = Annotated[int | None, typer.Option(help="Trials for each arm of the comparison.")]
Epochs = Annotated[int | None, typer.Option(help="Epochs of each trial.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the search.")]

DEFAULT_STATE = Path(".dropt")


@app.command()
def run(
    job: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="A job as JSON; - reads it from input.")
    ] = None,
    model: Model = None,
    dataset: DatasetOption = None,
    target: Target = None,
    task: TaskOption = None,
    minutes: Minutes = None,
    effort: EffortOption = None,
    trials: Trials = None,
    epochs: Epochs = None,
    seed: Seed = None,
    workers: Workers = "auto",
    state: State = DEFAULT_STATE,
    server: Server = None,
    key: Key = None,
) -> int:
    """Run one job and print its answer: service, workers and search in one command."""
    from dropt.cli.progress import make_console
    from dropt.cli.running import FileOptions, Place, run_job

    body = _body(job, model, dataset, minutes, effort, trials, epochs, seed)
    place = Place(state, _count(workers, least=1), server, key)
    options = FileOptions(target, task.value if task else None)
    return run_job(make_console(), body, options, place)


@app.command()
def resume(job: JobArgument, workers: Workers = "auto", state: State = DEFAULT_STATE) -> int:
    """Go on with a job of a state folder that was interrupted."""
    from dropt.cli.progress import make_console
    from dropt.cli.running import Place, resume_job

    return resume_job(make_console(), job, Place(state, _count(workers, least=1)))


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; loopback only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free port.")] = 8000,
    state: State = DEFAULT_STATE,
    workers: Workers = "auto",
    database_url: Annotated[
        str | None,
        typer.Option(envvar="DROPT_DATABASE_URL", help="PostgreSQL; default: SQLite in --state."),
    ] = None,
) -> int:
    """Start the service, with workers on this host."""
    from dropt.cli.serving import serve_here

    return serve_here(host, port, state, _count(workers, least=0), database_url)


@app.command()
def submit(
    job: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="A job as JSON; - reads it from input.")
    ] = None,
    model: Model = None,
    dataset: DatasetOption = None,
    target: Target = None,
    task: TaskOption = None,
    minutes: Minutes = None,
    effort: EffortOption = None,
    trials: Trials = None,
    epochs: Epochs = None,
    seed: Seed = None,
    json: AsJson = False,
    state: State = DEFAULT_STATE,
    server: Server = None,
    key: Key = None,
) -> int:
    """Queue a job at a service that runs, and print its id."""
    from dropt.cli.connection import connected
    from dropt.cli.reading import submit_job

    body = _body(job, model, dataset, minutes, effort, trials, epochs, seed)
    with connected(server, key, state, must_run=True) as client:
        return submit_job(client, body, target, task.value if task else None, as_json=json)


@app.command()
def ps(
    json: AsJson = False, state: State = DEFAULT_STATE, server: Server = None, key: Key = None
) -> int:
    """List the jobs, newest first."""
    from dropt.cli.connection import connected
    from dropt.cli.reading import list_jobs

    with connected(server, key, state) as client:
        return list_jobs(client, as_json=json)


@app.command()
def show(
    job: JobArgument, json: AsJson = False, state: State = DEFAULT_STATE, server: Server = None,
    key: Key = None,
) -> int:  # fmt: skip
    """Show a job: how far it is, and its answer."""
    from dropt.cli.connection import connected
    from dropt.cli.reading import show_job

    with connected(server, key, state) as client:
        return show_job(client, job, as_json=json)


@app.command()
def logs(
    job: JobArgument, json: AsJson = False, state: State = DEFAULT_STATE, server: Server = None,
    key: Key = None,
) -> int:  # fmt: skip
    """Show what happened to a job, event by event."""
    from dropt.cli.connection import connected
    from dropt.cli.reading import show_events

    with connected(server, key, state) as client:
        return show_events(client, job, as_json=json)


@app.command()
def cancel(
    job: JobArgument,
    reason: Annotated[str | None, typer.Option(help="Why, in words; it is kept.")] = None,
    state: State = DEFAULT_STATE,
    server: Server = None,
    key: Key = None,
) -> int:
    """Stop a job at once; what it has found so far is kept."""
    from dropt.cli.connection import connected
    from dropt.cli.reading import cancel_job

    with connected(server, key, state) as client:
        return cancel_job(client, job, reason)


@database.command()
def upgrade(
    state: State = DEFAULT_STATE,
    database_url: Annotated[
        str | None,
        typer.Option(envvar="DROPT_DATABASE_URL", help="PostgreSQL; default: SQLite in --state."),
    ] = None,
) -> int:
    """Bring the database to the schema of this version; make a copy of it before."""
    from dropt.cli.serving import upgrade_database

    return upgrade_database(state, database_url)


def _body(
    source: str | None, model: str | None, dataset: str | None, minutes: float | None,
    effort: Effort | None, trials: int | None, epochs: int | None, seed: int | None,
) -> "Body":  # fmt: skip
    from dropt.cli.body import read_body, set_options

    options = {
        "model": model,
        "dataset": dataset,
        "budget.seconds": None if minutes is None else 60 * minutes,
        "budget.trials": trials,
        "evidence.effort": effort.value if effort else None,
        "training.epochs": epochs,
        "search.seed": seed,
    }
    return set_options(read_body(source), options)


def _count(workers: str, *, least: int) -> int:
    """The number of workers that an option names."""
    from dropt.cli.problems import Refused
    from dropt.cli.workers import count_devices

    if workers == "auto":
        return count_devices()
    if not workers.isdecimal() or int(workers) < least:
        raise Refused(f"--workers is 'auto' or a number from {least} on, received '{workers}'.")
    return int(workers)
