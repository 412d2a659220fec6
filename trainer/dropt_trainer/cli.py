"""`dropt-worker`: one process on one device that trains for a service."""

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

LATEST_END_S = 18.0  # after the first signal; a service manager kills after 20
KEY_REFUSED = 4
DEFAULT_SLOTS = {"cpu": 16, "cuda": 64}  # a search gains nothing from more on a CPU
OWN = {"model": "the factory of a model", "dataset": "a data set", "loss": "a loss"}

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the worker until it is drained; status 0 then, 1 when it is refused, 4 for its key."""
    options = _parse(arguments)
    _log_to_stderr(options.log_level)
    import numpy as np  # torch and numpy take a second: not for --help
    import torch

    from dropt.client import Client
    from dropt.errors import DroptError
    from dropt_trainer.device import choose, keep_freed_memory
    from dropt_trainer.worker import plugins
    from dropt_trainer.worker.loop import Worker
    from dropt_trainer.worker.registration import registration
    from dropt_trainer.worker.speaker import refuses_key

    try:
        device = choose(options.device)
        own = plugins.installed().and_also(
            plugins.from_files(options.model, options.dataset, options.loss)
        )
    except (ValueError, RuntimeError, DroptError) as error:
        sys.exit(f"dropt-worker: {error}")
    max_slots = options.max_slots or DEFAULT_SLOTS[device.type]
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    with Client(options.server, key=os.environ.get("DROPT_API_KEY") or None) as client:
        worker = Worker(
            client, registration(options.name, device, max_slots, own), device,
            np.random.default_rng(), own,
        )  # fmt: skip
        _drain_on_signals(worker.drain)
        try:
            worker.run()
        except DroptError as error:
            print(f"dropt-worker: {error.detail}", file=sys.stderr)
            sys.exit(KEY_REFUSED if refuses_key(error) else 1)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dropt-worker",
        description="Train for a dropt service. The key is read from DROPT_API_KEY.",
    )
    name = f"{os.uname().nodename}-{os.getpid()}"
    parser.add_argument("--server", required=True, metavar="URL", help="the service")
    parser.add_argument("--name", default=name, help="shown to people (default: host and process)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: the best one here)")
    parser.add_argument(
        "--max-slots", type=_positive, metavar="N",
        help="most trials to train at once (default: 16, on a GPU 64)",
    )  # fmt: skip
    parser.add_argument("--threads", type=_positive, default=1, metavar="N",
                        help="CPU threads; more processes train more (default: 1)")  # fmt: skip
    for kind, what in OWN.items():
        parser.add_argument(f"--{kind}", action="append", default=[], metavar="FILE.py:NAME",
                            help=f"offer {what} of a file as well; may be repeated")  # fmt: skip
    parser.add_argument("--log-level", default="info",
                        choices=("debug", "info", "warning", "error"))  # fmt: skip
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, received {text}")
    return number


def _log_to_stderr(level: str) -> None:
    """One JSON object a line, with what the record carries."""
    import structlog

    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.getLogger("httpx2").setLevel(logging.WARNING)


def _drain_on_signals(drain: Callable[[], None]) -> None:
    """The first SIGTERM or SIGINT drains, within 18 s; the second ends the process at once."""
    seen = threading.Event()

    def end(number: int, frame: object) -> None:
        if seen.is_set():
            os._exit(128 + number)
        seen.set()
        late = threading.Timer(LATEST_END_S, _end_late)
        late.daemon = True
        late.start()
        drain()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def _end_late() -> NoReturn:
    """What was not given back in time expires by itself."""
    logger.warning("drain.late")
    os._exit(0)


if __name__ == "__main__":
    main()
