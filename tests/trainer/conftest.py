"""One thread, as in a worker: on tensors as small as these, more of them wait for each other."""

import os
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():  # Triton asks for it once, when it is first imported
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
