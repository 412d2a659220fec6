"""Numbers as people read them in the terminal: the same as on the report page."""

from dropt.spec.quantities import METRIC_NAMES, count, rate, score

__all__ = ["METRIC_NAMES", "count", "rate", "score"]
