"""Sites of more than forty models, against what a reader of each wrote down before.

The five cheapest run with every suite; the rest by `make zoo`.
"""

import pytest
import torch
from tests.zoo import attention, convolutional, dense, hugging_face, recurrent
from tests.zoo.case import Case
from tests.zoo.checks import CHECKS, look

from dropt_trainer.sites.discover import Discovery

CASES = (
    *dense.CASES, *convolutional.CASES, *recurrent.CASES, *attention.CASES, *hugging_face.CASES,
)  # fmt: skip
# What torch and its tracer raise where a model cannot be batched, compiled or pickled.
REFUSALS = (RuntimeError, TypeError, ValueError, AttributeError, LookupError)
PARAMETERS = [
    pytest.param(case, check, id=f"{case.name}-{check}", marks=[] if case.is_cheap else [ZOO])
    for ZOO in [pytest.mark.zoo]
    for case in CASES
    for check in CHECKS
    if not (case.is_cheap and check == "compile")
] + [
    pytest.param(case, "compile", id=f"{case.name}-compile", marks=[pytest.mark.zoo])
    for case in CASES
    if case.is_cheap
]
_found: dict[str, Discovery] = {}


def found_in(case: Case) -> Discovery:
    if case.name not in _found:
        _found[case.name] = look(case)
    return _found[case.name]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.filterwarnings("ignore")  # a slow batching rule, a deprecation in a library's code
@pytest.mark.parametrize(("case", "check"), PARAMETERS)
def test_zoo(case: Case, check: str) -> None:
    found = found_in(case)
    if check not in case.exceptions:
        CHECKS[check](case, found)
        return
    with pytest.raises(REFUSALS) as refusal:
        CHECKS[check](case, found)
    assert str(refusal.value).strip(), "a refusal says why"


def test_zoo_has_thirty_models_and_no_name_twice() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) >= 30
    assert sum(case.is_cheap for case in CASES) == 5
