import pytest

from dropt.cli.problems import ExitCode, Refused, WorkerMissing, exit_code, lines_of
from dropt.errors import (
    DatasetUnreadable,
    DroptError,
    FieldError,
    Internal,
    InvalidRequest,
    NotFound,
    NotReady,
    PortInUse,
    SchemaMismatch,
    ServiceUnreachable,
    StateInUse,
    Unauthorized,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused("x"), ExitCode.USAGE),
        (InvalidRequest("x"), ExitCode.USAGE),
        (NotFound("x"), ExitCode.USAGE),
        (DatasetUnreadable("x"), ExitCode.USAGE),
        (PortInUse("x"), ExitCode.USAGE),
        (StateInUse("x"), ExitCode.USAGE),
        (SchemaMismatch("x"), ExitCode.USAGE),
        (WorkerMissing("x"), ExitCode.USAGE),
        (ServiceUnreachable("x"), ExitCode.UNREACHABLE),
        (NotReady("x"), ExitCode.UNREACHABLE),
        (Internal("x"), ExitCode.UNREACHABLE),
        (Unauthorized("x"), ExitCode.KEY_REFUSED),
    ],
)
def test_exit_code_says_who_can_correct_it(error: DroptError, code: ExitCode) -> None:
    assert exit_code(error) == code


def test_one_wrong_field_is_one_line_with_what_is_allowed() -> None:
    error = InvalidRequest.of(
        FieldError("/model", "unknown-model", "No such model.", received="x", allowed=("mlp",))
    )
    assert list(lines_of(error)) == ["dropt: /model: No such model. Received 'x'. Allowed: mlp."]


def test_several_wrong_fields_are_counted_and_listed() -> None:
    wrong = [FieldError(f"/{name}", "unknown-field", "Unknown field.") for name in "ab"]
    lines = list(lines_of(InvalidRequest.of(*wrong)))
    assert lines == ["dropt: 2 fields need attention", "  /a: Unknown field.",
                     "  /b: Unknown field."]  # fmt: skip


def test_suggestion_makes_the_list_of_names_needless() -> None:
    field = FieldError("/m", "x", "Did you mean 'mlp'?", received="mpl", allowed=("mlp", "cnn"))
    assert list(lines_of(InvalidRequest.of(field))) == [
        "dropt: /m: Did you mean 'mlp'? Received 'mpl'."
    ]


def test_unreachable_service_and_refused_key_come_with_a_remedy() -> None:
    assert "dropt serve" in list(lines_of(ServiceUnreachable("No service")))[1]
    assert "DROPT_API_KEY" in list(lines_of(Unauthorized("No key")))[1]
