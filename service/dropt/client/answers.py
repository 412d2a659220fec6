"""What a job has found: its verdict, its configuration, its arms and its trials."""

from collections.abc import Iterator

from dropt.client.connection import Connection, Query, part
from dropt.spec.capsule import Capsule
from dropt.spec.report import Report
from dropt.spec.results import ArmRead, BestRead, Page, TrialRead, VerdictRead
from dropt.spec.space import Placement


class Answers(Connection):
    """What a user reads of a job."""

    def get_verdict(self, job_id: str) -> VerdictRead:
        """Does dropout help: the answer of a job, provisional before its end."""
        return self._get(f"/v1/jobs/{part(job_id)}/verdict", VerdictRead)

    def get_best(self, job_id: str, *, top: int | None = None) -> BestRead:
        """The recommended configuration, and the `top` best of each arm."""
        return self._get(f"/v1/jobs/{part(job_id)}/best", BestRead, {"top": top})

    def get_placement(self, job_id: str, *, arm: str | None = None) -> Placement:
        """The recommended configuration, or that of an arm, as `apply()` reads it."""
        return self._get(f"/v1/jobs/{part(job_id)}/best/config", Placement, {"arm": arm})

    def get_snippet(self, job_id: str, *, arm: str | None = None) -> str:
        """The same as plain PyTorch."""
        asked = {"format": "python"} | ({} if arm is None else {"arm": arm})
        return self._send("GET", f"/v1/jobs/{part(job_id)}/best/config", params=asked).text

    def get_report(self, job_id: str) -> Report:
        """Every number of the report page."""
        return self._get(f"/v1/jobs/{part(job_id)}/report.json", Report)

    def get_report_page(self, job_id: str) -> str:
        """The report as one HTML file that needs neither a service nor a network."""
        asked = {"standalone": "true"}
        return self._send("GET", f"/v1/jobs/{part(job_id)}/report", params=asked).text

    def list_arms(self, job_id: str) -> tuple[ArmRead, ...]:
        """The arms of a job."""
        return self._get(f"/v1/jobs/{part(job_id)}/arms", Page[ArmRead]).items

    def iterate_trials(
        self, job_id: str, *, arm: str | None = None, phase: str | None = None
    ) -> Iterator[TrialRead]:
        """Every trial of a job, by number."""
        query: Query = {"arm": arm, "phase": phase}
        return self._items(f"/v1/jobs/{part(job_id)}/trials", TrialRead, query)

    def get_capsule(self, trial_id: str) -> Capsule:
        """Everything that trains a trial again, alone."""
        return self._get(f"/v1/jobs/-/trials/{part(trial_id)}/capsule", Capsule)
