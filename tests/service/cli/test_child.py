import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from dropt.cli.child import spawn


def is_running(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until_gone(pid: int, timeout_s: float = 120.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(pid)


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that says its arguments and its process id, then sleeps."""
    (tmp_path / "sleeper.py").write_text(
        "import os, sys, time\nprint(os.getpid(), *sys.argv[1:], flush=True)\ntime.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return "sleeper"


def test_child_runs_the_module_with_its_arguments_in_a_session_of_its_own(
    sleeper: str, tmp_path: Path
) -> None:
    child = spawn(
        sleeper, ["a", "--b"], log=tmp_path / "log", environment={}, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == f"{child.pid} a --b\n"
        assert os.getsid(child.pid) == child.pid
    finally:
        child.kill()
        child.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="the signal at death is Linux's")
def test_child_dies_with_a_parent_that_is_killed(sleeper: str, tmp_path: Path) -> None:
    code = textwrap.dedent(f"""
        import subprocess, time
        from pathlib import Path
        from dropt.cli.child import spawn
        child = spawn({sleeper!r}, [], log=Path({str(tmp_path / "log")!r}), environment={{}},
                      stdout=subprocess.PIPE)
        print(child.stdout.readline(), flush=True)
        time.sleep(60)
    """)
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert is_running(pid)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    assert wait_until_gone(pid)
