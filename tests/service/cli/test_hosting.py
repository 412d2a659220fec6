import json
import socket
import sqlite3
import threading
import urllib.request
from pathlib import Path

import pytest

from dropt.cli.connection import connected
from dropt.cli.embedded import embedded
from dropt.cli.hosting import address_of, hosted, known_address, listen, prepare_database
from dropt.cli.problems import Refused
from dropt.cli.serving import make_settings, upgrade_database
from dropt.client import Client
from dropt.errors import PortInUse, SchemaMismatch, ServiceUnreachable, StateInUse
from dropt.settings import Settings
from dropt.storage.engine import own_state, sqlite_url


def make_newer(state: Path) -> None:
    """Let the database look as if a later version had written it."""
    prepare_database(sqlite_url(state))
    with sqlite3.connect(state / "dropt.db") as connection:
        connection.execute("UPDATE dropt_alembic_version SET version_num = 'from_the_future'")
    connection.close()


def test_port_in_use_is_named_with_the_remedy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"{port}.*--port"):
            listen("127.0.0.1", port)


def test_free_port_is_told_in_the_address() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert port > 0
        assert address_of(listener) == f"http://127.0.0.1:{port}"


@pytest.mark.slow
def test_service_answers_and_says_where_until_it_is_stopped(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with (
        listen("127.0.0.1", 0) as listener,
        hosted(Settings(state=state), listener, n_workers=0) as host,
        Client(host.address) as client,
    ):
        client.wait_until_ready(lambda: None)
        assert known_address(state) == host.address
        with connected(None, None, state) as found:
            assert found.url == host.address
        with (
            pytest.raises(StateInUse, match="in use"),
            listen("127.0.0.1", 0) as other,
            hosted(Settings(state=state), other, n_workers=0),
        ):
            pass
        done = threading.Event()
        done.set()
        host.watch(done)
    assert known_address(state) is None
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{host.address}/healthz", timeout=60)


@pytest.mark.slow
def test_embedded_service_serves_a_state_folder_for_one_command(tmp_path: Path) -> None:
    state = tmp_path / "state"
    prepare_database(sqlite_url(state))
    with connected(None, None, state) as client:
        assert client.list_jobs().items == ()
    lines = (state / "log" / "service.log").read_text("utf-8").splitlines()
    assert any(json.loads(line)["event"] == "request.answered" for line in lines)


@pytest.mark.slow
def test_embedded_service_that_cannot_start_says_why(tmp_path: Path) -> None:
    state = tmp_path / "state"
    make_newer(state)
    with (
        pytest.raises(SchemaMismatch, match="newer"),
        embedded(state, n_workers=0) as service,
        Client(service.address) as client,
    ):
        client.wait_until_ready(service.check)
    with (
        own_state(tmp_path / "taken"),
        pytest.raises(StateInUse, match="--state"),
        embedded(tmp_path / "taken", n_workers=0) as service,
        Client(service.address) as client,
    ):
        client.wait_until_ready(service.check)


def test_without_a_service_and_a_state_folder_the_usual_address_is_asked(tmp_path: Path) -> None:
    with connected(None, None, tmp_path / "none") as client:
        assert client.url == "http://127.0.0.1:8000"
    (tmp_path / "address").write_text("http://127.0.0.1:9\n", "utf-8")  # of one that was killed
    with connected(None, None, tmp_path) as client:
        assert client.url == "http://127.0.0.1:8000"


def test_named_service_is_asked_even_if_it_does_not_answer(tmp_path: Path) -> None:
    with (
        connected("http://127.0.0.1:9", None, tmp_path) as client,
        pytest.raises(ServiceUnreachable),
    ):
        client.list_jobs()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lease_seconds": 5.0}, "heartbeat_seconds"),
        ({"port": 70_000}, "port"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_sentence(
    values: dict[str, object], message: str
) -> None:
    with pytest.raises(Refused, match=message) as caught:
        make_settings(**values)
    assert "\n" not in str(caught.value)


def test_upgrade_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    upgrade_database(tmp_path / "state", None)
    upgrade_database(tmp_path / "state", None)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("The database went from nothing to schema ")
    assert second.startswith("The database is at schema ")


def test_newer_database_is_refused_and_not_touched(tmp_path: Path) -> None:
    make_newer(tmp_path / "state")
    with pytest.raises(SchemaMismatch, match="newer"):
        upgrade_database(tmp_path / "state", None)
