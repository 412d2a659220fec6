"""The model of a lease on its data: how it is built, its sites, and the lane that suits it."""

import functools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from dropt.spec.inspection import Inspection, Probe
from dropt.spec.protocol import Lease, LeasedModel
from dropt_trainer import models
from dropt_trainer.data.prepare import Prepared
from dropt_trainer.data.streams import ReadRows, first_rows
from dropt_trainer.device import free_memory
from dropt_trainer.fused import lanes
from dropt_trainer.fused.precision import DTYPES
from dropt_trainer.fused.step import Lane
from dropt_trainer.inspect import inspect_model
from dropt_trainer.losses import LOSSES, Loss
from dropt_trainer.models.arguments import FROM_DATA
from dropt_trainer.models.own import build_own, check_repeatable
from dropt_trainer.sites.ports import SitePort
from dropt_trainer.worker.plugins import Plugins

NO_PLUGINS = Plugins()
N_ROWS = 8  # of the training data, to look at the model with


@dataclass(frozen=True)
class Subject:
    """A model on a data set, as it was found on this device; the loss as packs take it."""

    factory: Callable[[int], nn.Module]
    inspection: Inspection
    loss: str | Loss

    def lane(self, n_slots: int) -> Lane:
        """The lane for a pack of so many slots."""
        probe = self.inspection.probe
        return "solo" if n_slots == 1 or probe is None else probe.lane


class Subjects:
    """Looks at each model once; what was found is kept for as long as the worker lives."""

    def __init__(
        self, device: torch.device, max_slots: int, plugins: Plugins = NO_PLUGINS
    ) -> None:
        self._device, self._max_slots, self._plugins = device, max_slots, plugins
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
        factory = self._factory(lease.model, data)
        training, rows = lease.training, data.parts["train"]
        loss = self._plugins.loss(training.loss)
        found = inspect_model(
            factory(0).to(self._device, DTYPES[training.precision]),
            first_rows(rows.x, N_ROWS), rows.y[:N_ROWS],
            LOSSES[loss] if isinstance(loss, str) else loss,
        )  # fmt: skip
        n_batch = min(training.batch_size, len(rows))
        measured = lanes.probe(
            lanes.Subject(
                factory, _default_ports(found), first_rows(rows.x, n_batch), rows.y[:n_batch],
                training.optimizer, loss, self._device, training.precision,
            ),
            max_slots=1 if isinstance(rows.x, ReadRows) else self._max_slots,
            clock=_clock(self._device), memory_bytes=free_memory(self._device),
        )  # fmt: skip
        if isinstance(rows.x, ReadRows):
            measured = replace(measured, why="the rows are read one by one, not kept in memory")
        return Subject(factory, found.model_copy(update={"probe": _told(measured)}), loss)

    def _factory(self, model: LeasedModel, data: Prepared) -> Callable[[int], nn.Module]:
        """What packs call for the model of each trial."""
        own = self._plugins.models.get(model.name)
        if own is None:
            return functools.partial(_build, model.name, model.args, data)
        factory = functools.partial(_build_own, own.build, model.args, data)
        check_repeatable(factory, model.name)
        return factory


# Partials of the next two are the factories that packs call.
def _build(name: str, args: Mapping[str, object], data: Prepared, seed: int) -> nn.Module:
    return models.build(
        name, args, input_shape=data.input_shape, n_outputs=data.n_outputs, seed=seed,
        task=data.task, n_tokens=data.n_tokens, input_names=data.input_names,
    )  # fmt: skip


def _build_own(
    build: Callable[..., nn.Module], args: Mapping[str, object], data: Prepared, seed: int
) -> nn.Module:
    said = {name: getattr(data, name) for name in FROM_DATA}
    return build_own(build, args, said, seed=seed)


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
        SitePort(site.site, site.kinds[0], site.calls, site.time_dim, site.batch_dim)
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
