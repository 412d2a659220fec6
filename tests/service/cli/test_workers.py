"""The supervisor, over real processes of a module that stands in for the worker."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dropt.cli import workers
from dropt.cli.problems import WorkerMissing
from dropt.cli.workers import Workers, count_devices

SLEEPS = "import time\ntime.sleep(60)\n"
DIES = "raise SystemExit(3)\n"
STUBBORN = """
import os, pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(__file__).with_name(f"deaf-{os.getpid()}").touch()
time.sleep(600)
"""

Start = Callable[..., tuple[Workers, list[str]]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    made: list[Workers] = []

    def start(code: str, n: int = 1, *, registers: bool = True) -> tuple[Workers, list[str]]:
        (tmp_path / "stand_in.py").write_text(code, "utf-8")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        monkeypatch.setattr(workers, "MODULE", "stand_in")
        monkeypatch.setattr(workers, "FIRST_DELAY_S", 0.01)
        ended: list[str] = []

        def note(name: str) -> bool:
            ended.append(name)
            return registers

        made.append(Workers(n, server="http://x", key="secret", log_dir=tmp_path, on_end=note))
        return made[-1], ended

    yield start
    for each in made:
        each.stop(patience_s=0.1)


def tend_until(each: Workers, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        each.tend()
        time.sleep(0.01)


def pids(each: Workers) -> set[int]:
    return {seat.process.pid for seat in each._seats if seat.process is not None}


def test_killed_worker_is_noted_and_started_again_under_another_name(start: Start) -> None:
    supervisor, ended = start(SLEEPS, 2)
    supervisor.tend()
    before = pids(supervisor)
    assert len(before) == 2
    seat = supervisor._seats[0]
    name = seat.name
    assert seat.process is not None
    seat.process.kill()
    tend_until(supervisor, lambda: bool(ended) and len(pids(supervisor)) == 2)
    assert ended == [name]
    assert seat.name != name
    assert len(pids(supervisor) & before) == 1


def test_worker_that_never_registers_is_given_up_with_its_log(start: Start) -> None:
    supervisor, ended = start(DIES, registers=False)
    with pytest.raises(WorkerMissing, match=r"status 3.*worker-0\.log"):
        tend_until(supervisor, lambda: False)
    assert len(ended) == workers.HOPELESS


def test_worker_that_had_registered_is_started_for_ever(start: Start) -> None:
    supervisor, ended = start(DIES, registers=True)
    tend_until(supervisor, lambda: len(ended) > workers.HOPELESS + 1)


def test_stop_ends_all_and_kills_what_does_not_listen(start: Start, tmp_path: Path) -> None:
    supervisor, _ = start(STUBBORN, 2)
    supervisor.tend()
    processes = [seat.process for seat in supervisor._seats]
    tend_until(supervisor, lambda: len(list(tmp_path.glob("deaf-*"))) == 2)
    supervisor.stop(patience_s=0.2)
    assert [process and process.poll() for process in processes] == [-signal.SIGKILL] * 2


def test_each_gpu_gets_a_worker_and_a_cpu_one_for_each_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "DEVICES", tmp_path)
    assert 1 <= count_devices() <= workers.MAX_AUTO
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert count_devices() == 2
