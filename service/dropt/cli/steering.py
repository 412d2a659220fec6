"""Commands that steer a job that is there: pause, stop, extend, clone, rm, and following it."""

from pathlib import Path
from typing import Any

from dropt.cli.body import read_body
from dropt.cli.problems import ExitCode
from dropt.cli.reading import event_line
from dropt.client import Client
from dropt.spec.results import JobRead


def say_state(job: JobRead, *, as_json: bool) -> ExitCode:
    """In which state a job is now."""
    if as_json:
        print(job.model_dump_json(by_alias=True, indent=2))
    else:
        print(f"{job.id} is {job.state}.")
    return ExitCode.OK


def clone_job(
    client: Client, job_id: str, changes: Path | None, *, warm_start: bool, as_json: bool
) -> ExitCode:
    """Queue a job like this one and print its id; `changes` is a file with what differs."""
    differs: dict[str, Any] = {} if changes is None else dict(read_body(f"{changes}"))
    job = client.clone_job(job_id, differs, warm_start=warm_start)
    print(job.model_dump_json(by_alias=True, indent=2) if as_json else job.id)
    return ExitCode.OK


def delete_job(client: Client, job_id: str, *, force: bool) -> ExitCode:
    """Delete a job and say so."""
    client.delete_job(job_id, force=force)
    print(f"{job_id} is deleted.")
    return ExitCode.OK


def follow_events(client: Client, job_id: str, *, as_json: bool) -> ExitCode:
    """Print every event of a job, those to come too, until it has ended; 1 if it failed."""
    for event in client.follow_events(job_id):
        print(event.model_dump_json() if as_json else event_line(event), flush=True)
    is_failed = client.get_job(job_id).state == "failed"
    return ExitCode.JOB_FAILED if is_failed else ExitCode.OK
