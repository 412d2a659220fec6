"""The answer of a job: its verdict, and the configuration to use."""

import math

from dropt.errors import NoResultYet
from dropt.jobs.reading import best_trials, links
from dropt.spec.inspection import Site
from dropt.spec.results import (
    BestRead,
    Configuration,
    Equivalent,
    NeverDropped,
    RemovalRead,
    SiteRead,
    VerdictRead,
    VerdictWord,
)
from dropt.spec.space import Dropout, Schedule
from dropt.storage import arms, trials
from dropt.storage.jobs import JobRow
from dropt.storage.session import Session
from dropt.storage.trials import TrialRow
from dropt.tuning.comparison import BASELINE, PRIMARY
from dropt.tuning.configurations import params_of
from dropt.tuning.screening_reading import screening_of
from dropt.tuning.selection import cheapest
from dropt.tuning.shortlist import ARMS
from dropt.tuning.winners import Winner, peers_of, trial_of

PROVISIONAL = "No verdict yet: the best of the search so far, not tested."


def verdict_of(job: JobRow) -> VerdictRead:
    """The verdict of a job.

    Raises:
        NoResultYet: no look at paired seeds was taken so far.
    """
    if job.verdict is None:
        raise NoResultYet(
            f"Job {job.id} is {job.state} and has no verdict"
            + (f": {job.reason}" if job.reason else "")
        )
    provisional = job.verdict.provisional and not job.is_done
    return job.verdict.model_copy(update={"revision": job.revision, "provisional": provisional})


def best_of(session: Session, job: JobRow, *, top: int) -> BestRead:
    """What to use: the winner of `with` when the verdict is `helps`, else that of `without`.

    Raises:
        NoResultYet: no trial of the search has completed.
    """
    found = _configurations(session, job)
    if not found:
        raise NoResultYet(f"Job {job.id} is {job.state}, and no trial has completed so far")
    word: VerdictWord = job.verdict.verdict if job.verdict is not None else "undecided"
    recommended = _recommended(found, word)
    spec = job.spec
    return BestRead(
        job=job.id,
        revision=job.revision,
        provisional=not job.is_done,
        model=job.model,
        dataset=job.dataset,
        verdict=word,
        summary=job.verdict.summary if job.verdict is not None else PROVISIONAL,
        recommended=recommended,
        alternatives=tuple(one for one in found.values() if one is not recommended),
        top=_top(session, job, top),
        simplified=_simplified(session, job),
        indistinguishable=indistinguishable_of(session, job, recommended.arm),
        screening=screening_of(session, job),
        never_dropped=_never_dropped(job),
        reproduce={
            "search_seed": spec.search.seed,
            "dataset_sha256": spec.dataset_sha256,
            "fingerprint": job.space.fingerprint if job.space else None,
        },
        links=links(job.id),
    )


def _recommended(found: dict[str, Configuration], word: VerdictWord) -> Configuration:
    order = (PRIMARY, BASELINE) if word == "helps" else (BASELINE, PRIMARY)
    return next(found[arm] for arm in order if arm in found)


def _configurations(session: Session, job: JobRow) -> dict[str, Configuration]:
    """The configuration of each arm: what was compared, before that the best of the search."""
    of_arm = {row.arm: row for row in arms.list_of(session, job.id, project=job.project)}
    found = {}
    for arm, trial in best_trials(session, job).items():
        winner = of_arm[arm].winner if arm in of_arm else None
        found[arm] = _of_trial(job, trial) if winner is None else _of_winner(job, arm, winner)
    return found


def _simplified(session: Session, job: JobRow) -> tuple[RemovalRead, ...]:
    rows = arms.list_of(session, job.id, project=job.project)
    stored = next((row.winner for row in rows if row.arm == PRIMARY), None)
    return () if stored is None else Winner.model_validate(stored).removals


def indistinguishable_of(session: Session, job: JobRow, arm: str) -> tuple[Equivalent, ...]:
    """The equivalence set of an arm, once its race is over."""
    of_arm = {row.arm: row for row in arms.list_of(session, job.id, project=job.project)}
    is_raced = arm in of_arm and of_arm[arm].winner is not None
    if arm not in ARMS or not is_raced or job.spec.evidence is False:
        return ()
    rows = trials.list_of(session, job.id, project=job.project)
    found = peers_of(job, rows, arm)
    if not found:
        return ()
    chosen = cheapest([peer.entry.configuration for peer in found])
    return tuple(
        Equivalent(
            arm=arm,
            trial=trial_of(peer.entry, peer.place, rows),
            value=peer.mean,
            sites=_sites(job, peer.entry.configuration.on),
            other=params_of(peer.entry.configuration),
            seeds=peer.n_seeds,
            cheapest=place == chosen,
        )
        for place, peer in enumerate(found)
    )


def _of_trial(job: JobRow, row: TrialRow) -> Configuration:
    return Configuration(
        arm=row.arm, trial=row.id, value=row.value, sites=_sites(job, row.sites),
        other=row.params,
    )  # fmt: skip


def _of_winner(job: JobRow, arm: str, stored: object) -> Configuration:
    winner = Winner.model_validate(stored)
    return Configuration(
        arm=arm,
        trial=winner.trial,
        value=winner.value,
        sites=_sites(job, winner.sites),
        other=params_of(winner.configuration),
    )


def _sites(job: JobRow, placed: dict[str, Dropout]) -> tuple[SiteRead, ...]:
    """Every searched site with its rate, 0 where it has no dropout, in the model's order."""
    if job.space is None:
        return ()
    searched = {site: group.kind for group in job.space.groups for site in group.sites}
    return tuple(
        SiteRead(
            site=site.site,
            layer=site.layer,
            kind=placed[site.site].kind if site.site in placed else searched[site.site],
            units=_units(site),
            rate=placed[site.site].rate if site.site in placed else 0.0,
            schedule=placed[site.site].schedule if site.site in placed else Schedule(),
        )
        for site in job.space.sites
        if site.site in searched or site.site in placed
    )


def _units(site: Site) -> int | None:
    return math.prod(site.shape) if site.shape else None


def _never_dropped(job: JobRow) -> tuple[NeverDropped, ...]:
    excluded = job.space.excluded if job.space else ()
    return tuple(
        NeverDropped(site=one.site, layer=None, reason=one.reason)
        for one in excluded
        if one.reason == "output_layer"
    )


def _top(session: Session, job: JobRow, top: int) -> tuple[Configuration, ...]:
    """The `top` best completed search trials of each arm, best first."""
    found: list[Configuration] = []
    for arm in job.spec.compare.arms:
        rows = trials.list_page(
            session, job.id, project=job.project, limit=top, order_by="value",
            descending=job.spec.objective.direction == "maximize", arm=arm, phase="search",
            states=["completed"],
        ) if top else []  # fmt: skip
        found += [_of_trial(job, row) for row in rows]
    return tuple(found)
