"""Commands that ask a service and print: submit, ps, show, logs, cancel."""

from collections.abc import Iterable

from pydantic import BaseModel
from rich.table import Table
from rich.text import Text

from dropt.cli import figures
from dropt.cli.answer import print_answer
from dropt.cli.body import Body, name_in, require_subject, set_name
from dropt.cli.following import answer_of
from dropt.cli.own_code import own_code, refuse_at_server
from dropt.cli.problems import ExitCode
from dropt.cli.progress import in_order, make_console
from dropt.cli.uploading import as_file, upload
from dropt.client import Client
from dropt.spec.results import EventRead, JobRead, JobSummary


def submit_job(
    client: Client, body: Body, target: str | None, task: str | None, *, as_json: bool
) -> ExitCode:
    """Queue a job and print its id."""
    require_subject(body)
    refuse_at_server(own_code(body), client.url)
    dataset = name_in(body, "dataset")
    file = as_file(dataset, target, task) if dataset is not None else None
    if file is not None:
        body = set_name(body, "dataset", upload(client, file))
    job = client.create_job(body)
    print(_json(job) if as_json else job.id)
    return ExitCode.OK


def list_jobs(client: Client, *, as_json: bool) -> ExitCode:
    """Print the newest jobs, one a line."""
    page = client.list_jobs()
    if as_json:
        print(_json(page))
        return ExitCode.OK
    console = make_console()
    if not page.items:
        console.print("There are no jobs yet. Start one: dropt run --model mlp --dataset digits",
                      soft_wrap=True)  # fmt: skip
        return ExitCode.OK
    console.print(jobs_table(page.items), soft_wrap=True)
    return ExitCode.OK


def jobs_table(jobs: Iterable[JobSummary]) -> Table:
    """One row for each job: what it tried, how far it is, what it found."""
    table = Table(box=None, pad_edge=False)
    for name in ("job", "name", "state", "done", "verdict"):
        table.add_column(name, no_wrap=True, justify="right" if name == "done" else "left")
    for job in jobs:
        state = job.state if job.phase is None else f"{job.state}: {job.phase}"
        verdict = "" if job.verdict is None else job.verdict.replace("_", " ")
        table.add_row(job.id, Text(job.name), state, f"{100 * job.fraction:.0f} %", verdict)
    return table


def show_job(client: Client, job_id: str, *, as_json: bool) -> ExitCode:
    """Print how far a job is, and its answer where there is one."""
    job = client.get_job(job_id)
    if as_json:
        print(_json(job))
        return _status(job)
    console = make_console()
    for line in summary_lines(job):
        console.print(Text(line), soft_wrap=True)
    verdict, best = answer_of(client, job.id)
    if best is not None:
        print_answer(console, verdict, best, ())
    return _status(job)


def summary_lines(job: JobRead) -> Iterable[str]:
    """A job in a few lines: name and state, the arms, what it waits for or why it ended."""
    where = job.state if job.phase is None else f"{job.state}: {job.phase}"
    yield f"{job.id} · {job.name} · {where} · {100 * job.progress.fraction:.0f} %"
    metric = job.spec.objective.metric
    for arm in in_order(job):
        best = figures.score(metric, arm.best_value)
        ended = f"{arm.complete} complete, {arm.pruned} pruned, {arm.failed} failed"
        name = figures.METRIC_NAMES[metric]
        yield f"  {arm.arm}: {ended} of {arm.target}; best validation {name} {best}"
    if job.reason:
        yield f"  {job.reason}"
    for warning in job.warnings:
        yield f"  warning: {warning}"


def show_events(client: Client, job_id: str, *, as_json: bool) -> ExitCode:
    """Print every stored event of a job in order."""
    for event in client.iterate_events(job_id):
        print(event.model_dump_json() if as_json else event_line(event))
    return ExitCode.OK


def event_line(event: EventRead) -> str:
    """`2026-11-23 22:04:18Z  trial.completed  trl_... attempt 1  value 0.93`."""
    parts = [f"{event.at:%Y-%m-%d %H:%M:%S}Z", f"{event.type:<16}"]
    if event.trial is not None:
        parts.append(event.trial)
    if event.attempt is not None:
        parts.append(f"attempt {event.attempt}")
    parts += [f"{name} {value}" for name, value in event.data.items() if value is not None]
    return printable("  ".join(parts))


def cancel_job(client: Client, job_id: str, reason: str | None) -> ExitCode:
    """Cancel a job and say in which state it is now."""
    job = client.cancel_job(job_id, reason=reason)
    print(f"{job.id} is {job.state}.")
    return ExitCode.OK


def printable(text: str) -> str:
    """The text without control characters: names of users must not steer a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def _status(job: JobRead) -> ExitCode:
    return ExitCode.JOB_FAILED if job.state == "failed" else ExitCode.OK


def _json(answer: BaseModel) -> str:
    return answer.model_dump_json(by_alias=True, indent=2)
