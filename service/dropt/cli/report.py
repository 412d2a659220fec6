"""`dropt report`: the report of a job as one file to keep or to send."""

import sys
from pathlib import Path

from dropt.cli.problems import ExitCode
from dropt.client import Client


def write_report(client: Client, job_id: str, to: Path | None, *, as_json: bool) -> ExitCode:
    """Write the page, or with `as_json` its numbers, to a file or to the output.

    The page needs no service and no network: it opens from the file.
    """
    if as_json:
        content = client.get_report(job_id).model_dump_json(by_alias=True, indent=2) + "\n"
    else:
        content = client.get_report_page(job_id)
    if to is None:
        sys.stdout.write(content)
        return ExitCode.OK
    to.write_text(content, encoding="utf-8")
    print(f"Wrote {to}: open it in a browser." if not as_json else f"Wrote {to}.")
    return ExitCode.OK
