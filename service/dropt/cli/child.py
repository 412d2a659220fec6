"""Start another module as a child that does not outlive its parent.

`python -m dropt.cli.child PARENT_PID MODULE ARGUMENTS...` asks the kernel to be killed when its
parent dies, then becomes `python -m MODULE`. Only Linux has such a signal; elsewhere a killed
parent leaves the child to find out by itself.
"""

import ctypes
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def spawn(
    module: str,
    arguments: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    stdout: int | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[str]:
    """Start `module` with its output in the file `log`, in a session of its own.

    The session keeps Ctrl-C for the parent, which ends its children in order. The signal at death
    follows the calling thread: call this from one that lives as long as the child should.
    """
    command = [sys.executable, "-m", "dropt.cli.child", str(os.getpid()), module, *arguments]
    with log.open("ab") as sink:
        return subprocess.Popen(  # noqa: S603 (our own modules, no shell)
            command, stdin=subprocess.DEVNULL, stdout=sink if stdout is None else stdout,
            stderr=sink, text=True, env={**os.environ, **environment}, start_new_session=True,
            pass_fds=pass_fds,
        )  # fmt: skip


def die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent ends; exit if that has happened already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(f"the parent {parent} has gone")


def main() -> None:
    """Become the module that the arguments name."""
    parent, module, *arguments = sys.argv[1:]
    die_with(int(parent))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
