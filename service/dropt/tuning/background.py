"""The thread that takes jobs forward and keeps Optuna's studies a mirror of our tables."""

import logging
import threading
from collections.abc import Callable
from functools import partial
from time import monotonic

from optuna.storages import BaseStorage

from dropt.errors import DroptError, NotFound
from dropt.spec.results import FINAL_JOB_STATES
from dropt.storage import arms, deletion, jobs, mirroring, projects, trials
from dropt.storage.engine import optuna_url
from dropt.storage.jobs import JobRow
from dropt.tuning import studies
from dropt.tuning.phases import advance
from dropt.tuning.service import Service

logger = logging.getLogger(__name__)

TICK_S = 0.5  # a step is taken at once when a report wakes the thread
MIRROR_S = 4.0  # the dashboard is at most so far behind; short trials are written once, whole
BATCH = 500  # trials mirrored in one go
NOTED = 20  # newest finished jobs whose notes are looked at when the service starts


class Background:
    """Runs until stopped; a database that is away delays it, nothing ends it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._storage = studies.open_storage(optuna_url(service.database.url))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="background", daemon=True)
        self._behind: set[tuple[str, str]] = set()  # (project, job) whose studies lack something
        self._has_ended = False  # a job that is behind: its answer should not wait
        self._mirrored_at = 0.0

    @property
    def storage(self) -> BaseStorage:
        """Optuna's storage, which the dashboard reads."""
        return self._storage

    def start(self) -> None:
        """Begin, with what a service before this one may have left: trials, or a last note."""
        with self._service.database.reading() as session:
            self._behind |= set(mirroring.unmirrored_jobs(session))
            for job in jobs.list_page(
                session, project=projects.DEFAULT, limit=NOTED, state=FINAL_JOB_STATES
            ):
                self._behind.add((job.project, job.id))
        self._thread.start()

    def stop(self) -> None:
        """Let the step that runs end, mirror what is left, close Optuna's storage, and return."""
        self._stopping.set()
        self._service.wake.set()
        self._thread.join()
        studies.close_storage(self._storage)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._service.wake.wait(TICK_S)
            self._service.wake.clear()
            self._guarded(self._advance_all)
            self._guarded(self._delete_studies)
            if self._has_ended or monotonic() - self._mirrored_at >= MIRROR_S:
                self._guarded(self._mirror_all)
                self._mirrored_at = monotonic()
        self._guarded(self._mirror_all)

    def _guarded(self, step: Callable[[], None]) -> None:
        """A fault of the database passes; one of ours is logged, and the other jobs go on."""
        try:
            step()
        except DroptError as error:
            logger.warning("background.waits", extra={"reason": str(error)})
        except Exception:  # the thread must outlive every fault, as the ASGI edge does
            logger.exception("background.failed")

    def _advance_all(self) -> None:
        with self._service.database.reading() as session:
            active = jobs.active(session)
        self._has_ended = bool(self._behind - {(job.project, job.id) for job in active})
        for job in active:
            self._behind.add((job.project, job.id))
            self._guarded(partial(advance, self._service, job))
        if active:
            self._announce(active)

    def _announce(self, before: list[JobRow]) -> None:
        """Wake what waits for a job that moved: requests, and this thread for its next step."""
        with self._service.database.reading() as session:
            after = jobs.active(session)
        if _steps(after) != _steps(before):
            self._service.wake.set()
        if _marks(after) != _marks(before):
            self._service.bell.ring()

    def _delete_studies(self) -> None:
        """Those of deleted jobs; here alone, so that no mirror makes them again."""
        with self._service.database.reading() as session:
            names = deletion.discarded_studies(session)
        for name in names:
            studies.delete_study(self._storage, name)
            with self._service.database.writing() as session:
                deletion.forget_study(session, name)

    def _mirror_all(self) -> None:
        for project, job_id in sorted(self._behind):
            self._guarded(partial(self._catch_up, project, job_id))

    def _catch_up(self, project: str, job_id: str) -> None:
        try:
            with self._service.database.reading() as session:
                job = jobs.get(session, job_id, project=project)
        except NotFound:  # it was deleted
            self._behind.discard((project, job_id))
            return
        n_left = self._mirror(job)
        if job.state in FINAL_JOB_STATES and n_left == 0:
            self._behind.discard((project, job_id))

    def _mirror(self, job: JobRow) -> int:
        """Bring what changed into the studies of a job; how many trials were written."""
        if job.space is None:
            return 0
        with self._service.database.reading() as session:
            of_job = arms.list_of(session, job.id, project=job.project)
            rows = mirroring.unmirrored(session, job.id, BATCH, project=job.project)
        for arm in (arm for arm in of_job if arm.searched):
            mine = [row for row in rows if row.arm == arm.arm]
            self._mirror_arm(job, arm.arm, arm.study_id, mine)
        return len(rows)

    def _mirror_arm(
        self, job: JobRow, arm: str, study_id: int | None, rows: list[trials.TrialRow]
    ) -> None:
        assert job.space is not None  # trials exist once there is a space
        if study_id is None:
            study_id = studies.open_study(self._storage, job.id, arm, job.spec.objective)
            with self._service.database.writing() as session:
                arms.set_study_id(session, job.id, arm, study_id, project=job.project)
        if rows:
            mirrored = studies.mirror_rows(
                self._storage, job.id, arm, self._service.known(job, rows), space=job.space,
                objective=job.spec.objective,
            )  # fmt: skip
            with self._service.database.writing() as session:
                jobs.lock(session, job.id, project=job.project)  # before trials, as everywhere
                for one in mirrored:
                    mirroring.set_mirrored(
                        session, one.trial, one.optuna_id, one.state, project=job.project
                    )
            logger.debug("tell.mirrored", extra={"job": job.id, "trials": len(mirrored)})
        link = f"/v1/jobs/{job.id}"
        studies.write_note(
            self._storage, study_id, studies.note_text(job.verdict, arm=arm, link=link)
        )


def _steps(active: list[JobRow]) -> set[tuple[str, str, str | None]]:
    return {(job.id, job.state, job.phase) for job in active}


def _marks(active: list[JobRow]) -> set[tuple[str, int, int]]:
    """What changes with everything that a job does."""
    return {(job.id, job.revision, job.event_sequence) for job in active}
