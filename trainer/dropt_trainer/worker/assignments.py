"""From the words of a lease to those of the engine."""

from collections.abc import Mapping, Sequence

from dropt.spec.inspection import Inspection
from dropt.spec.protocol import Lease, TrialAssignment
from dropt.spec.space import Schedule as AskedSchedule
from dropt_trainer.fused.slots import SlotTrial
from dropt_trainer.optim import Params
from dropt_trainer.schedules import Schedule
from dropt_trainer.sites.ports import SitePort
from dropt_trainer.worker.ends import Unsupported


def slot_trial(trial: TrialAssignment, *, patience: int | None) -> SlotTrial:
    """One trial as a slot takes it."""
    params = trial.params
    return SlotTrial(
        seed=trial.seed,
        epochs=trial.epochs,
        params=Params(
            lr=params.lr, weight_decay=params.weight_decay, l1=params.l1, l2=params.l2
        ),
        rates={site: dropout.rate for site, dropout in trial.sites.items()},
        schedules={site: _schedule(each.schedule) for site, each in trial.sites.items()},
        kinds={site: dropout.kind for site, dropout in trial.sites.items()},
        first_epoch=trial.first_epoch,
        patience=patience,
    )  # fmt: skip


def ports_of(columns: Mapping[str, Sequence[str]], inspection: Inspection) -> tuple[SitePort, ...]:
    """The columns of rates of a pack: what the lease asks for, as the model was found to be.

    Raises:
        Unsupported: a site that this worker does not find in the model, or a kind not for it.
    """
    sites = {site.site: site for site in inspection.sites}
    ports = []
    for name, kinds in columns.items():
        site = sites.get(name)
        if site is None:
            raise Unsupported(f"site {name!r} is not in the model; found: {', '.join(sites)}")
        for kind in kinds:
            if kind not in site.kinds:
                raise Unsupported(f"site {name!r} takes {', '.join(site.kinds)}, asked: {kind}")
            ports.append(SitePort(name, kind, site.calls, site.time_dim, site.batch_dim))
    return tuple(ports)


def check_fingerprint(lease: Lease, inspection: Inspection) -> None:
    """Raise Unsupported when the model of the job is another one than this worker builds."""
    asked = lease.model.fingerprint
    if asked is not None and asked != inspection.fingerprint:
        raise Unsupported(
            f"model {lease.model.name!r} has fingerprint {inspection.fingerprint} here, the job "
            f"was inspected with {asked}: the workers have different versions of it"
        )


def _schedule(asked: AskedSchedule) -> Schedule:
    at = asked.start if asked.name == "late" else asked.until
    return Schedule(asked.name, at or 0.0)
