"""The commands and their options; each imports what it needs when it runs."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dropt.cli import key_commands

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
models = typer.Typer(help="The models that workers offer.", no_args_is_help=False)
app.add_typer(models, name="models")
app.add_typer(key_commands.app, name="keys")


class Effort(StrEnum):
    """Most seeds of the evidence: 8, 20 or 30."""

    quick = "quick"
    default = "default"
    thorough = "thorough"


class Form(StrEnum):
    """What `apply()` reads, or lines of plain PyTorch."""

    json = "json"
    python = "python"


class Task(StrEnum):
    """What the target of a file is."""

    classification = "classification"
    regression = "regression"
    next_token = "next_token"  # noqa: S105 (a task, not a secret)


State = Annotated[
    Path, typer.Option(envvar="DROPT_STATE", help="Folder of the databases, artifacts and logs.")
]
Server = Annotated[
    str | None,
    typer.Option(envvar="DROPT_SERVER", metavar="URL", help="A service that runs already."),
]
Key = Annotated[
    str | None, typer.Option(envvar="DROPT_API_KEY", help="Key for it.", show_envvar=True)
]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Id of a job: job_...")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer of the API.")]
Workers = Annotated[
    str,
    typer.Option(metavar="N|auto", help="Worker processes; auto: one per GPU, else one per core."),
]
Model = Annotated[str | None, typer.Option(metavar="NAME", help="A model: mlp, cnn, ...")]
RunModel = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME|FILE.py:FACTORY", help="A model, or one of your own."),
]
DatasetOption = Annotated[
    str | None, typer.Option(metavar="NAME|FILE", help="A data set, or a csv or npz file.")
]
RunDataset = Annotated[
    str | None,
    typer.Option("--dataset", metavar="NAME|FILE|FILE.py:DATA",
                 help="A data set, a csv or npz file, or one of your own."),
]  # fmt: skip
RunLoss = Annotated[
    str | None,
    typer.Option("--loss", metavar="NAME|FILE.py:LOSS", help="What is minimised in training."),
]
Args = Annotated[
    list[str] | None,
    typer.Option("--arg", metavar="NAME=VALUE", help="Argument of the model; may be repeated."),
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
    model: RunModel = None,
    arg: Args = None,
    dataset: RunDataset = None,
    loss: RunLoss = None,
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
    from dropt.cli.own_code import parse_arguments, set_arguments
    from dropt.cli.progress import make_console
    from dropt.cli.running import FileOptions, Place, run_job

    body = _body(job, model, dataset, minutes, effort, trials, epochs, seed, loss)
    body = set_arguments(body, parse_arguments(arg or []))
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
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback a key comes first.")
    ] = "127.0.0.1",
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
    arg: Args = None,
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
    from dropt.cli.own_code import parse_arguments, set_arguments
    from dropt.cli.reading import submit_job

    body = _body(job, model, dataset, minutes, effort, trials, epochs, seed)
    body = set_arguments(body, parse_arguments(arg or []))
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
    job: JobArgument,
    json: AsJson = False,
    form: Annotated[
        Form | None, typer.Option("--as", help="The configuration alone, as a file to use.")
    ] = None,
    arm: Annotated[
        str | None, typer.Option(help="With --as: of this arm, not the recommended one.")
    ] = None,
    state: State = DEFAULT_STATE,
    server: Server = None,
    key: Key = None,
) -> int:
    """Show a job: how far it is, and its answer."""
    from dropt.cli.configs import print_configuration
    from dropt.cli.connection import connected
    from dropt.cli.reading import show_job

    with connected(server, key, state) as client:
        if form is not None:
            return print_configuration(client, job, form.value, arm)
        return show_job(client, job, as_json=json)


@app.command()
def logs(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends.")] = False,
    json: AsJson = False,
    state: State = DEFAULT_STATE,
    server: Server = None,
    key: Key = None,
) -> int:
    """Show what happened to a job, event by event."""
    from dropt.cli.connection import connected
    from dropt.cli.reading import show_events
    from dropt.cli.steering import follow_events

    with connected(server, key, state) as client:
        if follow:
            return follow_events(client, job, as_json=json)
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


@app.command()
def report(
    job: JobArgument,
    to: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: the output.")
    ] = None,
    json: AsJson = False,
    state: State = DEFAULT_STATE,
    server: Server = None,
    key: Key = None,
) -> int:
    """Write the report of a job as one page that opens without a network."""
    from dropt.cli.connection import connected
    from dropt.cli.report import write_report

    with connected(server, key, state) as client:
        return write_report(client, job, to, as_json=json)


@app.command()
def capsule(
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="Id of a trial: trl_...")],
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write into.")] = Path(),
    state: State = DEFAULT_STATE,
    server: Server = None,
    key: Key = None,
) -> int:
    """Write what trains one trial again, alone: settings, seeds, digests, versions, its curve."""
    from dropt.cli.capsules import write_capsule
    from dropt.cli.connection import connected

    with connected(server, key, state) as client:
        return write_capsule(client, trial, to)


@app.command()
def reproduce(
    capsule: Annotated[Path, typer.Argument(metavar="CAPSULE", help="A file of dropt capsule.")],
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.")] = None,
    json: AsJson = False,
) -> int:
    """Train the trial of a capsule again and compare; status 1 if another curve comes out."""
    from dropt.cli.capsules import reproduce as train_again

    return train_again(capsule, device, as_json=json)


@models.callback(invoke_without_command=True)
def list_models(
    context: typer.Context, json: AsJson = False, state: State = DEFAULT_STATE,
    server: Server = None, key: Key = None,
) -> int | None:  # fmt: skip
    """List the models that workers offer, with their arguments."""
    if context.invoked_subcommand is not None:
        return None
    from dropt.cli.models import list_models as print_models
    from dropt.cli.models import with_worker

    with with_worker(server, key, state) as client:
        return print_models(client, as_json=json)


@models.command()
def sites(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model: mlp, cnn, ...")],
    dataset: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="A data set, or a csv or npz file.")
    ],
    arg: Args = None,
    target: Target = None,
    task: TaskOption = None,
    json: AsJson = False,
    state: State = DEFAULT_STATE,
    server: Server = None,
    key: Key = None,
) -> int:
    """Show where dropout can act in a model, what was refused, and what the linter says."""
    from dropt.cli.models import show_sites, with_worker
    from dropt.cli.own_code import parse_arguments

    with with_worker(server, key, state) as client:
        return show_sites(
            client, model, dataset, parse_arguments(arg or []), target=target,
            task=task.value if task else None, as_json=json,
        )  # fmt: skip


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
    loss: str | None = None,
) -> "Body":  # fmt: skip
    from dropt.cli.body import read_body, set_options

    options = {
        "model": model,
        "dataset": dataset,
        "budget.seconds": None if minutes is None else 60 * minutes,
        "budget.trials": trials,
        "evidence.effort": effort.value if effort else None,
        "training.epochs": epochs,
        "training.loss": loss,
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
