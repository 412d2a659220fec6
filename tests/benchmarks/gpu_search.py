"""A whole search without pruning: trials of MNIST size through packs that are refilled."""

import time
from dataclasses import dataclass

import torch
from tests.benchmarks.gpu_cases import N_CLASSES, Case, trial

from dropt_trainer.data.dataset import Dataset
from dropt_trainer.data.prepare import prepare
from dropt_trainer.fused.driver import Driver, batch_ends
from dropt_trainer.fused.pack import Pack
from dropt_trainer.sites.instrument import SitePort


@dataclass(frozen=True)
class Search:
    """So many trials of the MLP 784-128-64-10, each over so many epochs."""

    trials: int = 1000
    epochs: int = 20
    n_rows: int = 60_000
    n_validation: int = 10_000
    batch_size: int = 64
    slots: int = 64

    @property
    def steps_per_epoch(self) -> int:
        return len(batch_ends(self.n_rows, self.batch_size))


SEARCH = Search()
MLP = Case("mlp", "mlp", {"hidden": [128, 64]}, ("layers.1", "layers.3"), (784,), 1)


def run_search(search: Search, device: torch.device) -> float:
    """Seconds from the first load to the last end, validation after each epoch included."""
    driver = _driver(search, device)
    waiting = list(range(search.trials))
    start = time.perf_counter()
    while waiting or driver.slots:
        for slot in sorted(driver.pack.free):
            if waiting:
                driver.load(slot, trial(driver.pack, waiting.pop(0), epochs=search.epochs))
        for end in driver.run_epoch():
            if end.state == "finished":
                driver.clear(end.slot)
    return time.perf_counter() - start


def _driver(search: Search, device: torch.device) -> Driver:
    generator = torch.Generator().manual_seed(0)
    n_rows = search.n_rows + search.n_validation
    split = torch.zeros(n_rows, dtype=torch.int8)
    split[search.n_rows :] = 1
    dataset = Dataset(
        torch.randn(n_rows, 784, generator=generator),
        torch.randint(0, N_CLASSES, (n_rows,), generator=generator),
        "classification", N_CLASSES, split=split,
    )  # fmt: skip
    pack = Pack(
        MLP.build, [SitePort(f"{path}:out", "element") for path in MLP.sites],
        slots=search.slots, optimizer="adamw", loss="cross_entropy", device=device,
    )  # fmt: skip
    return Driver(
        pack, prepare(dataset, split, device=device), batch_size=search.batch_size,
        objective="nll", direction="minimize",
    )  # fmt: skip
