"""Tables for whoever runs the statistics with `-s`."""

import sys


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
