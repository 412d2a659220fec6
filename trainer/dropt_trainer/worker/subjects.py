"""The model of a lease on its data: how it is built, its sites, and the lane that suits it."""

import functools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from dropt.spec.inspection import Inspection, Probe
from dropt.spec.protocol import Lease
from dropt_trainer import models
from dropt_trainer.data.dataset import take
from dropt_trainer.data.prepare import Prepared
from dropt_trainer.device import free_memory
from dropt_trainer.fused import lanes
from dropt_trainer.fused.pack import DTYPES
from dropt_trainer.fused.step import Lane
from dropt_trainer.inspect import inspect_model
from dropt_trainer.losses import LOSSES
from dropt_trainer.sites.ports import SitePort

N_ROWS = 8  # of the training data, to look at the model with


@dataclass(frozen=True)
class Subject:
    """A model on a data set, as it was found on this device."""

    factory: Callable[[int], nn.Module]
    inspection: Inspection

    def lane(self, n_slots: int) -> Lane:
        """The lane for a pack of so many slots."""
        probe = self.inspection.probe
        return "solo" if n_slots == 1 or probe is None else probe.lane


class Subjects:
    """Looks at each model once; what was found is kept for as long as the worker lives."""

    def __init__(self, device: torch.device, max_slots: int) -> None:
        self._device, self._max_slots = device, max_slots
        self._known: dict[str, Subject] = {}

    def of(self, lease: Lease, data: Prepared) -> Subject:
        """The model of a lease, inspected and probed.

        Raises:
            ValueError: the model cannot be built for the data; see `models.build`.
            SiteError: nothing can be traced through it.
        """
        key = _key(lease)
        if key not in self._known:
            self._known[key] = self._look(lease, data)
        return self._known[key]

    def _look(self, lease: Lease, data: Prepared) -> Subject:
        factory = functools.partial(_build, lease.model.name, lease.model.args, data)
        training, rows = lease.training, data.parts["train"]
        first = torch.arange(min(N_ROWS, len(rows)), device=rows.y.device)
        found = inspect_model(
            factory(0).to(self._device, DTYPES[training.precision]), take(rows.x, first),
            rows.y[first], LOSSES[training.loss],
        )  # fmt: skip
        batch = torch.arange(min(training.batch_size, len(rows)), device=rows.y.device)
        measured = lanes.probe(
            lanes.Subject(
                factory, _default_ports(found), take(rows.x, batch), rows.y[batch],
                training.optimizer, training.loss, self._device,
            ),
            max_slots=self._max_slots, clock=_clock(self._device),
            memory_bytes=free_memory(self._device),
        )  # fmt: skip
        return Subject(factory, found.model_copy(update={"probe": _told(measured)}))


def _build(
    name: str, args: Mapping[str, object], data: Prepared, seed: int
) -> nn.Module:  # a partial of it is the factory that packs call
    return models.build(
        name, args, input_shape=data.input_shape, n_outputs=data.n_outputs, seed=seed
    )


def _clock(device: torch.device) -> Callable[[], float]:
    """What steps are timed with; CPU time where one thread does the work.

    Other processes on the host then change nothing: by the wall clock, four of them made a pack
    look slower than its trials alone.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def _default_ports(inspection: Inspection) -> tuple[SitePort, ...]:
    """One column for each recommended site: what a search will most likely have."""
    return tuple(
        SitePort(site.site, site.kinds[0], calls=site.calls, time_dim=site.time_dim)
        for site in inspection.sites
        if site.recommended
    )


def _told(measured: lanes.Probe) -> Probe:
    speeds = measured.trial_steps_per_second
    return Probe(
        lane=measured.lane, why=measured.why, slots=measured.slots,
        bytes_per_trial=measured.bytes_per_trial,
        trial_steps_per_second={str(n): round(speed, 1) for n, speed in speeds.items()},
    )  # fmt: skip


def _key(lease: Lease) -> str:
    """Everything that the look depends on."""
    training = lease.training.model_dump(include={"batch_size", "loss", "optimizer", "precision"})
    parts = [lease.model.name, lease.model.args, lease.dataset.sha256, training]
    return json.dumps(parts, sort_keys=True, default=str)
