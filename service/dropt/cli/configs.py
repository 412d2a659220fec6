"""`dropt show --as`: the configuration of a job as a file to use."""

from typing import Literal

from dropt.cli.problems import ExitCode
from dropt.client import Client

Form = Literal["json", "python"]


def print_configuration(client: Client, job_id: str, form: Form, arm: str | None) -> ExitCode:
    """Print the recommended configuration, or that of an arm: what `apply()` reads, or PyTorch."""
    if form == "python":
        print(client.get_snippet(job_id, arm=arm), end="")
    else:
        print(client.get_placement(job_id, arm=arm).model_dump_json(by_alias=True, indent=2))
    return ExitCode.OK
