"""Without a compiler, a cache folder or Triton: the same masks, and one line that says so."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.trainer.dropout.definition import slot

from dropt_trainer.dropout.masks import drop, site_key
from dropt_trainer.native import SHIPPED

# Prints as JSON: the backend, the masks of three steps, what was logged. A CPU stands for a GPU
# that Triton cannot drive.
SCRIPT = """
import json, logging, sys, tempfile, torch
records = []
class Keep(logging.Handler):
    def emit(self, record): records.append([record.getMessage(), record.why])
logging.getLogger("dropt_trainer").addHandler(Keep())
logging.getLogger("dropt_trainer").setLevel(logging.WARNING)
{before}
from dropt_trainer.dropout.masks import TRITON, backend, drop, site_key
from dropt_trainer.native import load_triton
y = [drop(torch.ones(50), torch.tensor(0.4), torch.tensor(5), torch.tensor(t, dtype=torch.int32),
          site=site_key("a:out")).tolist() for t in range(3)]
kernels = [load_triton(TRITON, torch.device("cpu")) for _ in range(2)]
found = {{"backend": backend(), "y": y, "events": records, "triton": kernels}}
json.dump(found, sys.stdout)
"""
CASES = {
    "nothing there": ({"PATH": ""}, "sys.modules['triton'] = None", "no C compiler"),
    "nothing works": (
        {"PATH": os.environ["PATH"], "XDG_CACHE_HOME": "/dev/null"},
        "tempfile.tempdir = '/dev/null'",
        "/dev/null",
    ),
}  # environment, first lines of the script, part of the reason


@pytest.mark.slow
@pytest.mark.skipif(SHIPPED.exists(), reason="this installation came with its kernels")
@pytest.mark.parametrize("case", CASES)
def test_the_torch_version_has_the_same_masks_and_one_line_says_why(
    case: str, tmp_path: Path
) -> None:
    """A process that has nothing of this one's environment."""
    environment, before, why = CASES[case]
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(before=before)],
        env={"XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path), **environment},
        capture_output=True,
        check=True,
    )
    answer: dict[str, Any] = json.loads(run.stdout)
    key = site_key("a:out")
    here = [drop(torch.ones(50), *slot(0.4, 5, t), site=key).tolist() for t in range(3)]
    assert (answer["backend"], answer["triton"], answer["y"]) == ("torch", [None, None], here)
    (native, triton) = answer["events"]
    assert [native[0], triton[0]] == ["native.unavailable", "triton.unavailable"]
    assert why in native[1]
    assert not any("\n" in reason for _, reason in answer["events"])
