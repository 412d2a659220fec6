"""What to say of the search behind a verdict, from its trials."""

from collections.abc import Sequence

from dropt.spec.space import Range
from dropt.storage.jobs import JobRow
from dropt.storage.trials import TrialRow
from dropt.tuning.cautions import search_cautions
from dropt.tuning.comparison import BASELINE, PRIMARY


def cautions_of(job: JobRow, ended: Sequence[TrialRow]) -> tuple[str, ...]:
    """Cautions about the search; `ended` are its trials that completed or were pruned."""
    assert job.space is not None  # a job that has searched has one
    n_ranges = sum(isinstance(of, Range) for of in job.space.also.values())
    of_with = [row for row in ended if row.arm == PRIMARY]
    completed = [row for row in of_with if row.state == "completed" and row.value is not None]
    sign = -1.0 if job.spec.objective.direction == "maximize" else 1.0
    best = min(completed, key=lambda row: sign * (row.value or 0.0), default=None)
    return search_cautions(
        n_without=sum(row.arm == BASELINE for row in ended),
        n_with=len(of_with),
        n_with_dimensions=min(len(job.space.groups), job.space.max_groups) + n_ranges,
        best_with=None if best is None else of_with.index(best) + 1,
    )
