"""Deletion of jobs and of uploaded data sets, and of the files that nothing refers to any more."""

import logging

from dropt.errors import InUse, StillRunning
from dropt.spec.ids import JobId
from dropt.storage import arms, artifacts, datasets, deletion, jobs
from dropt.tuning.service import Service

logger = logging.getLogger(__name__)

UNUSED_S = 24 * 3600.0  # an upload is referred to by a report soon after it, or never
FILE_S = 3600.0  # a file that no row knows may be one whose row is being written


def delete_job(service: Service, job_id: str, *, project: str, force: bool = False) -> None:
    """Delete a job with its trials, events and verdicts; `force` for one that runs.

    Its studies go at the next turn of the background, its files with the next sweep. Its workers
    are told that their leases are gone.

    Raises:
        StillRunning: it has not ended, and there is no `force`.
        NotFound: no such job.
    """
    with service.database.writing() as session:
        job = jobs.lock(session, job_id, project=project)
        if not (job.is_done or job.state == "queued" or force):
            raise StillRunning(
                f"Job {job_id} is {job.state}; cancel it first, or delete it with force=true",
                members={"state": job.state},
            )
        studies = [row.study for row in arms.list_of(session, job_id, project=project)]
        deletion.delete_job(session, job_id, project=project)
        deletion.discard_studies(session, [each for each in studies if each], project=project)
    service.forget(JobId(job_id))
    service.wake.set()
    logger.info("job.deleted", extra={"job": job_id})


def delete_dataset(service: Service, name: str, *, project: str) -> None:
    """Delete an uploaded data set.

    Raises:
        InUse: unfinished jobs train on it, or workers offer it; members name them.
        NotFound: no such data set.
    """
    with service.database.writing() as session:
        row = datasets.get(session, name, project=project)
        if row.kind == "offered":
            raise InUse(
                f"Data set '{name}' comes with the workers; it goes when they do",
                members={"jobs": []},
            )
        users = jobs.unfinished_on(session, name, project=project)
        if users:
            raise InUse(
                f"{len(users)} unfinished jobs train on data set '{name}'; cancel them first",
                members={"jobs": users},
            )
        deletion.delete_dataset(session, name, project=project)
    logger.info("dataset.deleted", extra={"dataset": name})


def collect_garbage(
    service: Service, *, unused_s: float = UNUSED_S, file_s: float = FILE_S
) -> int:
    """Remove artifacts that nothing has referred to for `unused_s`; how many files went.

    Files of no row at all, which a crash or a deletion leaves, go once they are `file_s` old.
    """
    with service.database.writing() as session:
        n_rows = artifacts.forget_unused(session, unused_s)
    n_files = 0
    for sha256 in service.artifacts.older_than(file_s):
        with service.database.reading() as session:
            is_known = artifacts.is_known(session, sha256)
        if not is_known:
            n_files += service.artifacts.remove(sha256, file_s)
    logger.info("artifacts.swept", extra={"rows": n_rows, "files": n_files})
    return n_files
