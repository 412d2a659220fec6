"""What a job will cost, told before it runs from the speed that a worker has measured."""

from dropt.spec.inspection import Inspection, Probe
from dropt.spec.job import JobSpec
from dropt.spec.preview import Estimate
from dropt.spec.protocol import DatasetOffer
from dropt.spec.space import Space
from dropt.tuning.budget import n_reserved_trainings
from dropt.tuning.issuing import SEARCHED
from dropt.tuning.looks import plan_looks
from dropt.tuning.phases import n_test_rows
from dropt.tuning.planning import ACCURACY_NOISE, detectable_effect
from dropt.tuning.pruning import rung_epochs

NO_PROBE = "No worker has measured the speed of this model yet."


def estimate(
    spec: JobSpec,
    offer: DatasetOffer,
    *,
    found: Inspection | None,
    space: Space | None,
    n_workers: int,
) -> Estimate:
    """Trainings, epochs and time of a job.

    The time is that of the training steps: evaluation, the start of workers and what else runs
    on the machine come on top.

    Args:
        spec: the job.
        offer: its data set.
        found: what a worker has found in the model, if one has looked.
        space: what will be searched, if that is known.
        n_workers: live ones that offer the model.
    """
    n_search = spec.budget.trials * sum(arm in SEARCHED for arm in spec.compare.arms)
    n_evidence = n_reserved_trainings(spec, 0 if space is None else len(space.groups))
    epochs = n_search * usual_epochs(spec) + n_evidence * spec.training.epochs
    device_s, basis = None, NO_PROBE
    if found is not None and found.probe is not None:
        n_steps = steps_per_epoch(spec, offer)
        speed = _steps_per_second(found.probe, spec)
        device_s = epochs * n_steps / speed
        basis = (
            f"{speed:g} steps/s over all slots, measured; {n_steps} steps an epoch; evaluation "
            "comes on top."
        )
    return Estimate(
        trainings={"search": n_search, "evidence": n_evidence},
        epochs=round(epochs),
        device_seconds=_within(device_s, spec.budget.device_seconds),
        seconds=_within(
            None if device_s is None or not n_workers else device_s / n_workers,
            spec.budget.seconds,
        ),
        detectable_effect=_detectable(spec, n_test_rows(offer, spec)),
        basis=basis,
    )


def usual_epochs(spec: JobSpec) -> float:
    """Mean epochs of a search trial if as many pass each rung as its pruner lets pass."""
    pruner, epochs = spec.search.pruner, spec.training.epochs
    share, factor = 1.0, 2 if pruner.name == "median" else pruner.factor
    before, total = 0, 0.0
    for end in (*rung_epochs(pruner, epochs), epochs):
        total += share * max(end - before, 0)
        before, share = end, share / factor
    return total


def steps_per_epoch(spec: JobSpec, offer: DatasetOffer) -> int:
    """Batches of the training split, the last of which may be smaller."""
    split = spec.dataset.split
    n_rows = offer.split_rows.get("train", 0)
    if split is not None and split.method != "given":
        n_rows = int(split.train * offer.rows)
    return max(1, -(-n_rows // spec.training.batch_size))


def _steps_per_second(probe: Probe, spec: JobSpec) -> float:
    """Steps of trials per second, those of all slots together, in packs as the job will have."""
    slots = spec.resources.slots
    wanted = probe.slots if slots == "auto" else slots
    if probe.lane == "solo":
        wanted = 1
    measured = {int(n): speed for n, speed in probe.trial_steps_per_second.items() if speed > 0}
    if not measured:
        return 1.0
    return measured[min(measured, key=lambda n: abs(n - wanted))]


def _within(seconds: float | None, limit: float | None) -> float | None:
    """Rounded, and no more than the job may use."""
    if seconds is None:
        return limit
    return round(seconds if limit is None else min(seconds, limit), 1)


def _detectable(spec: JobSpec, n_test: int) -> float | None:
    """By the usual noise of an accuracy; that of a loss is not known before it is measured."""
    if spec.evidence is False or spec.objective.metric != "accuracy" or n_test < 2:
        return None
    n_seeds = plan_looks(spec.evidence.effort).cap
    effect = detectable_effect(ACCURACY_NOISE, n_seeds=n_seeds, n_examples=n_test)
    return float(f"{effect:.3g}")
