"""What the start page shows: the jobs of a project with their verdicts."""

from dropt.spec.job import Metric
from dropt.spec.record import Answer
from dropt.spec.results import JobSummary


class JobCard(Answer):
    """One job on the start page."""

    job: JobSummary
    metric: Metric
    summary: str | None
    provisional: bool
    sites_kept: int | None
    sites_searched: int | None
    device_seconds: float


class StartPage(Answer):
    """The newest jobs, and the workers that are there."""

    jobs: tuple[JobCard, ...]
    workers: tuple[str, ...]
