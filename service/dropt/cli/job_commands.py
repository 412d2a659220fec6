"""The commands that steer a job: each speaks to a service, as the verbs of its API do."""

from pathlib import Path
from typing import Annotated

import typer

from dropt.cli.commands import DEFAULT_STATE, AsJson, JobArgument, Key, Server, State, app


@app.command()
def pause(
    job: JobArgument, json: AsJson = False, state: State = DEFAULT_STATE, server: Server = None,
    key: Key = None,
) -> int:  # fmt: skip
    """Start no new trials of a job; running ones finish."""
    from dropt.cli.connection import connected
    from dropt.cli.steering import say_state

    with connected(server, key, state) as client:
        return say_state(client.pause_job(job), as_json=json)


@app.command()
def unpause(
    job: JobArgument, json: AsJson = False, state: State = DEFAULT_STATE, server: Server = None,
    key: Key = None,
) -> int:  # fmt: skip
    """Go on with a job that was paused, or that failed in a way that going on can help."""
    from dropt.cli.connection import connected
    from dropt.cli.steering import say_state

    with connected(server, key, state) as client:
        return say_state(client.resume_job(job), as_json=json)


@app.command()
def stop(
    job: JobArgument,
    evidence: Annotated[bool, typer.Option(help="Still test what was found.")] = True,
    json: AsJson = False,
    state: State = DEFAULT_STATE,
    server: Server = None,
    key: Key = None,
) -> int:
    """End the search of a job now, and decide with what there is."""
    from dropt.cli.connection import connected
    from dropt.cli.steering import say_state

    with connected(server, key, state) as client:
        return say_state(client.stop_job(job, evidence=evidence), as_json=json)


@app.command()
def extend(
    job: JobArgument,
    trials: Annotated[int | None, typer.Option(min=1, help="More trials for each arm.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.05, help="More time.")] = None,
    again: Annotated[bool, typer.Option(help="A new verdict from new seeds alone.")] = False,
    json: AsJson = False,
    state: State = DEFAULT_STATE,
    server: Server = None,
    key: Key = None,
) -> int:
    """Give a job more, also after its end; the next verdict has its own seeds."""
    from dropt.cli.connection import connected
    from dropt.cli.problems import Refused
    from dropt.cli.steering import say_state

    if again == (trials is not None or minutes is not None):
        raise Refused("Say --trials, --minutes or both; or --again alone.")
    seconds = None if minutes is None else 60 * minutes
    with connected(server, key, state) as client:
        extended = client.extend_job(job, trials=trials, seconds=seconds, again=again)
        return say_state(extended, as_json=json)


@app.command()
def clone(
    job: JobArgument,
    changes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What differs, as JSON.")
    ] = None,
    warm_start: Annotated[
        bool, typer.Option(help="Try the best placements of that job first.")
    ] = False,
    json: AsJson = False,
    state: State = DEFAULT_STATE,
    server: Server = None,
    key: Key = None,
) -> int:
    """Queue a job like one that is there, and print its id."""
    from dropt.cli.connection import connected
    from dropt.cli.steering import clone_job

    with connected(server, key, state) as client:
        return clone_job(client, job, changes, warm_start=warm_start, as_json=json)


@app.command()
def rm(
    job: JobArgument,
    force: Annotated[bool, typer.Option(help="Also while it runs.")] = False,
    state: State = DEFAULT_STATE,
    server: Server = None,
    key: Key = None,
) -> int:
    """Delete a job with everything that it has found."""
    from dropt.cli.connection import connected
    from dropt.cli.steering import delete_job

    with connected(server, key, state) as client:
        return delete_job(client, job, force=force)
