from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from dropt.settings import Settings, is_loopback


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATE", "DATABASE_URL", "HOST", "PORT", "WORKER_KEY", "LIMIT_JSON_BYTES"):
        monkeypatch.delenv(f"DROPT_{name}", raising=False)


def test_database_follows_from_the_state_folder(tmp_path: Path) -> None:
    assert Settings(state=tmp_path).database_url == f"sqlite:///{tmp_path}/dropt.db"
    assert Settings().database_url == f"sqlite:///{Path.cwd()}/.dropt/dropt.db"
    assert Settings(database_url="postgresql://x/y").database_url == "postgresql://x/y"


def test_environment_sets_and_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROPT_PORT", "8123")
    monkeypatch.setenv("DROPT_LIMIT_JSON_BYTES", "2048")
    monkeypatch.setenv("DROPT_STATE", "/somewhere")
    assert Settings().port == 8123
    assert Settings(port=1).port == 1
    assert Settings().limits()["json_bytes"] == 2048
    assert Settings().database_url == "sqlite:////somewhere/dropt.db"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(Settings(), "port", 1)  # noqa: B010  # as a type checker would not see it


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("port", 70_000, "less than or equal to 65535"),
        ("lease_seconds", -1, "greater than 0"),
        ("lease_seconds", float("nan"), "finite"),
        ("heartbeat_seconds", 30, "heartbeat_seconds .30. must be below lease_seconds"),
        ("log_level", "loud", "debug"),
        ("limit_json_bytes", 0, "1024"),
        ("admin_key", "short", "at least 20"),
        ("worker_key", "short", "at least 20"),
        ("limit_queued_jobs", 0, "greater than or equal to 1"),
        ("colour", "red", "Extra inputs"),
    ],
)
def test_value_that_does_not_fit_is_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings.model_validate({name: value})


def test_open_service_is_asked_for_by_name() -> None:
    assert Settings(host="0.0.0.0", no_auth=True).host == "0.0.0.0"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1", "[::1]"])
def test_loopback_is_known(host: str) -> None:
    assert is_loopback(host)
    assert Settings(host=host).host == host


def test_secrets_are_in_no_text() -> None:
    settings = Settings(
        worker_key=SecretStr("a-very-secret-key-of-workers"),
        database_url="postgresql://u:hidden@h/d",
    )
    assert "a-very-secret-key" not in f"{settings!r} {settings}"
    assert "hidden" not in f"{settings!r} {settings}"
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"worker_key": "a-very-secret-key", "port": -1})
    assert "a-very-secret-key" not in str(caught.value)
