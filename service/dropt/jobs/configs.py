"""A configuration of a job to take home: the placement that `apply()` reads, and plain PyTorch."""

from dropt.errors import FieldError, InvalidRequest, NoResultYet
from dropt.jobs.answers import best_of
from dropt.spec.inspection import Kind, Site
from dropt.spec.results import Configuration
from dropt.spec.snippet import plain_pytorch
from dropt.spec.space import Dropout, Layout, Placement, Space
from dropt.storage import jobs
from dropt.storage.jobs import JobRow
from dropt.tuning.service import Service


def placement(
    service: Service, job_id: str, *, project: str, arm: str | None = None
) -> tuple[Placement, int]:
    """The recommended placement, or that of an arm, with the revision of the job.

    Dropout that the model has already and that is not used stands in it at rate 0.

    Raises:
        NotFound: no such job.
        NoResultYet: it has no configuration so far.
        InvalidRequest: no such arm among its configurations.
    """
    found, job = _configuration(service, job_id, project=project, arm=arm)
    assert job.space is not None  # a job with a configuration has searched
    return placement_of(found, job.space, job.id), job.revision


def snippet(service: Service, job_id: str, *, project: str, arm: str | None = None) -> str:
    """The same as lines of plain PyTorch; raises what `placement` raises."""
    found, job = _configuration(service, job_id, project=project, arm=arm)
    assert job.space is not None  # a job with a configuration has searched
    title = f"# {job.model} on {job.dataset}, arm '{found.arm}' of {job.id}.\n"
    text = plain_pytorch(
        placement_of(found, job.space, job.id), own_kinds=own_kinds(job.space.sites)
    )
    return _one_line(title) + text


def placement_of(found: Configuration, space: Space, job_id: str) -> Placement:
    """A configuration as sites alone, with the layouts that are not the usual ones."""
    existing = {
        site.site: Dropout(kind=site.kinds[0], rate=0.0)
        for site in space.sites
        if site.existing_rate is not None
    }
    named = {
        site.site: Dropout.model_validate(
            {"kind": site.kind, "rate": site.rate, "schedule": site.schedule}
        )
        for site in found.sites
        if site.rate > 0 or site.site in existing
    }
    sites = {**existing, **named}
    return Placement(
        fingerprint=space.fingerprint,
        sites={site.site: sites[site.site] for site in space.sites if site.site in sites},
        layouts={
            site.site: layout
            for site in space.sites
            if site.site in sites and (layout := _layout(site)) != Layout()
        },
        source={"job": job_id, "trial": found.trial},
    )


def own_kinds(sites: tuple[Site, ...]) -> dict[str, Kind]:
    """How the model's own dropout drops: the default kind, which recurrent layers do not have."""
    return {
        site.site: "element" if site.role == "rnn_inter" else site.kinds[0]
        for site in sites
        if site.existing_rate is not None
    }


def _configuration(
    service: Service, job_id: str, *, project: str, arm: str | None
) -> tuple[Configuration, JobRow]:
    with service.database.reading() as session:
        job = jobs.get(session, job_id, project=project)
        best = best_of(session, job, top=0)
    if job.space is None:
        raise NoResultYet(f"Job {job.id} has no configuration so far")
    by_arm = {one.arm: one for one in (best.recommended, *best.alternatives)}
    if arm is None:
        return best.recommended, job
    if arm not in by_arm:
        raise InvalidRequest.of(
            FieldError(
                "?arm", "out-of-range", f"No configuration of arm '{arm}'.", received=arm,
                allowed=tuple(by_arm),
            )
        )  # fmt: skip
    return by_arm[arm], job


def _layout(site: Site) -> Layout:
    time_dim = 1 if site.time_dim is None else site.time_dim
    return Layout(batch_dim=site.batch_dim, time_dim=time_dim)


def _one_line(title: str) -> str:
    """A comment stays one, whatever a data set is called."""
    return "".join(char if char.isprintable() else " " for char in title.rstrip("\n")) + "\n"
