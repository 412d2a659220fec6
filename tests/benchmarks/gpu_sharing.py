"""The loop by hand in several processes that share one device, as people do without packs."""

import queue
import time
from typing import TYPE_CHECKING

import torch
from tests.benchmarks.gpu_cases import Case, eager

if TYPE_CHECKING:
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Barrier

STEPS_AT_ONCE = 10
START_TIMEOUT_S = 300.0  # a process imports torch and makes a CUDA context first


def shared_steps_per_second(
    case: Case, device: torch.device, n_processes: int, seconds: float
) -> float:
    """Steps per second of all processes together."""
    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    barrier = context.Barrier(n_processes)
    processes = [
        context.Process(target=_train, args=(case, str(device), seconds, barrier, results))
        for _ in range(n_processes)
    ]
    for process in processes:
        process.start()
    try:
        rates: list[float] = [results.get(timeout=START_TIMEOUT_S + seconds) for _ in processes]
        return sum(rates)
    except queue.Empty:
        return float("nan")
    finally:
        for process in processes:
            process.join(timeout=10.0)
            process.kill()


def _train(
    case: Case, device_name: str, seconds: float, barrier: "Barrier", results: "Queue[float]"
) -> None:
    torch.set_num_threads(1)
    steps = eager(case, torch.device(device_name))
    steps(STEPS_AT_ONCE).item()
    barrier.wait(START_TIMEOUT_S)
    start, n_steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        steps(STEPS_AT_ONCE).item()  # waits for the device
        n_steps += STEPS_AT_ONCE
    results.put(n_steps / (time.perf_counter() - start))
