"""`dropt keys` on a state folder, and what keys change for those who may read that folder."""

import stat
from pathlib import Path

import pytest
from tests.service.api.probes import SMALL

from dropt.cli.connection import connected
from dropt.cli.hosting import hosted, listen, local_key
from dropt.cli.main import run
from dropt.cli.problems import ExitCode
from dropt.client import Client
from dropt.errors import Forbidden, KeyNeeded, NotFound, Unauthorized
from dropt.settings import Settings
from dropt.spec.keys import KEY, new_key


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("DROPT_API_KEY", raising=False)
    return tmp_path / "state"


def make(state: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """A key made by the command line, which prints its text and nothing else."""
    assert run(["keys", "new", "--state", str(state), *options]) == ExitCode.OK
    text = capsys.readouterr().out.strip()
    assert KEY.fullmatch(text)
    return text


def test_new_key_is_listed_without_its_secret_until_it_is_revoked(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = make(state, capsys, "--name", "ci", "--scope", "worker", "--expires", "12h")
    where = ["--state", str(state)]
    assert run(["keys", "ls", *where]) == ExitCode.OK
    listed = capsys.readouterr().out
    assert "ci" in listed
    assert "worker" in listed
    assert key[6:14] in listed
    assert key[15:] not in listed

    assert run(["keys", "ls", "--json", *where]) == ExitCode.OK
    told = capsys.readouterr().out
    assert key[15:] not in told
    key_id = told.partition('"id": "')[2].partition('"')[0]
    assert run(["keys", "rm", key_id, *where]) == ExitCode.OK
    assert run(["keys", "rm", key_id, *where]) == ExitCode.USAGE
    assert "No key" in capsys.readouterr().err
    assert run(["keys", "ls", *where]) == ExitCode.OK
    assert "dropt keys new" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--project", "A b"], "--project is up to 63 of"),
        (["--project", ""], "--project is up to 63 of"),
        (["--expires", "soon"], "12h or 90d, received 'soon'"),
        (["--expires", "0d"], "has expired opens nothing"),
        (["--scope", "jobs"], "jobs:read"),
    ],
)
def test_options_that_cannot_be_are_refused_in_words(
    state: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert run(["keys", "new", "--state", str(state), *options]) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.slow
def test_service_with_keys_asks_for_them_and_its_folder_is_key_enough(
    state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = make(state, capsys, "--scope", "jobs:read")
    with (
        listen("127.0.0.1", 0) as listener,
        hosted(Settings(state=state), listener, n_workers=0) as host,
    ):
        with Client(host.address) as client:
            client.wait_until_ready(lambda: None)
            with pytest.raises(Unauthorized, match="DROPT_API_KEY"):
                client.list_jobs()
        with Client(host.address, key=reader) as client:
            assert client.list_jobs().items == ()
            with pytest.raises(Forbidden, match="--scope jobs:write"):
                client.create_job(SMALL)
            with pytest.raises(NotFound):
                client.get_job("job_1")
        with Client(host.address, key=new_key()) as client, pytest.raises(Unauthorized):
            client.list_jobs()

        assert stat.S_IMODE((state / "key").stat().st_mode) == 0o600
        with connected(None, None, state) as client:  # of this state folder: no key, no prompt
            assert client.list_jobs().items == ()
        monkeypatch.setenv("DROPT_API_KEY", reader)
        assert run(["ps", "--server", host.address]) == ExitCode.OK
        monkeypatch.setenv("DROPT_API_KEY", "wrong")
        assert run(["ps", "--server", host.address]) == ExitCode.KEY_REFUSED
        assert "Give the key with --key" in capsys.readouterr().err
    assert local_key(state) is None


@pytest.mark.slow
def test_embedded_service_asks_its_own_command_for_nothing(
    state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(state, capsys)
    monkeypatch.setenv("DROPT_API_KEY", "of-another-service")
    with connected(None, None, state) as client:
        assert client.list_jobs().items == ()


def test_service_beyond_loopback_does_not_start_without_a_key(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beyond = Settings(state=state, host="0.0.0.0")
    with (
        pytest.raises(KeyNeeded, match="dropt keys new --state"),
        listen("127.0.0.1", 0) as listener,
        hosted(beyond, listener, n_workers=0),
    ):
        pass
    assert run(["serve", "--host", "0.0.0.0", "--port", "0", "--state", str(state),
                "--workers", "0"]) == ExitCode.USAGE  # fmt: skip
    assert "Make one: dropt keys new" in capsys.readouterr().err
