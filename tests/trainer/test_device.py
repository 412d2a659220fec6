import pytest
import torch

from dropt_trainer.device import choose, describe, free_memory, keep_freed_memory


def test_the_cpu_is_described_with_its_memory() -> None:
    device = describe(choose("cpu"))
    assert device.type == "cpu"
    assert device.name
    assert 0 < free_memory(torch.device("cpu")) <= device.memory_bytes


def test_without_a_wish_the_best_device_is_taken() -> None:
    assert choose().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("wanted", ["meta", "cuda:999"])
def test_a_device_that_is_not_here_is_refused(wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        choose(wanted)


def test_the_c_library_takes_the_setting_or_has_none() -> None:
    assert keep_freed_memory() in (True, False)
