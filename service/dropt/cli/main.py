"""The `dropt` command: parses, runs one command, says every failure in one sentence.

Nothing heavy is imported before a command runs: `dropt --help` must not wait for torch, Optuna,
SQLAlchemy or FastAPI.
"""

import os
import sys
import tempfile
import traceback
from typing import NoReturn

import typer
from typer.exceptions import TyperException

from dropt.cli import commands, job_commands
from dropt.cli.problems import ExitCode, exit_code, lines_of
from dropt.errors import DroptError

__all__ = ["job_commands", "main", "run"]  # importing the former registers its commands


def main() -> NoReturn:
    """Run the command line; the process ends with the status of its outcome."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Carry out one command line and return its exit status; no traceback reaches the user."""
    command = typer.main.get_command(commands.app)
    try:
        result = command.main(args=arguments, prog_name="dropt", standalone_mode=False)
    except DroptError as error:
        print("\n".join(lines_of(error)), file=sys.stderr)
        return exit_code(error)
    except TyperException as error:
        return _say_usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # `dropt ps | head`: the reader has gone, nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except OSError as error:
        print(f"dropt: {error.strerror or error}{_about(error)}.", file=sys.stderr)
        return ExitCode.USAGE
    except Exception as error:  # noqa: BLE001 (the edge: what nobody foresaw is recorded)
        return _record(error)
    return result if isinstance(result, int) else ExitCode.OK


def _say_usage(error: TyperException) -> int:
    message = error.format_message()
    if message:  # without one, typer has printed the help
        print(f"dropt: {message}", file=sys.stderr)
        print("See 'dropt --help'.", file=sys.stderr)
    return ExitCode.USAGE


def _record(error: Exception) -> int:
    """Say that this is a bug, and where its traceback is."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="dropt-", suffix=".log", delete=False, encoding="utf-8"
    ) as file:
        traceback.print_exception(error, file=file)
    print(
        f"dropt: this is a bug: {type(error).__name__}: {error}\nThe details are in {file.name}",
        file=sys.stderr,
    )
    return ExitCode.UNREACHABLE


def _about(error: OSError) -> str:
    return f": {error.filename}" if error.filename else ""


if __name__ == "__main__":
    main()
