"""The container files, as far as a machine without an engine can check them."""

import re
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from dropt.cli.commands import app
from dropt.settings import Settings

DOCKER = Path(__file__).parents[1] / "docker"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return found


def test_compose_builds_from_files_that_are_here(compose: dict[str, Any]) -> None:
    built = [of["build"] for of in compose["services"].values() if "build" in of]
    assert len(built) == 2
    for build in built:
        assert (DOCKER / build["context"] / build["dockerfile"]).is_file()


def test_compose_sets_only_what_the_service_reads(compose: dict[str, Any]) -> None:
    names = compose["services"]["service"]["environment"]
    known = {f"DROPT_{field.upper()}" for field in Settings.model_fields}
    assert set(names) <= known


def test_compose_publishes_on_loopback_alone(compose: dict[str, Any]) -> None:
    published = [port for of in compose["services"].values() for port in of.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


@pytest.mark.parametrize("name", ["service.Dockerfile", "trainer.Dockerfile"])
def test_images_copy_what_exists_and_drop_root(name: str) -> None:
    text = (DOCKER / name).read_text()
    for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (DOCKER.parent / source).exists(), source
    user = text.index("\nUSER dropt")
    assert user < text.index("\nENTRYPOINT")
    assert "USER root" not in text


def test_the_service_image_serves_with_options_that_the_command_has() -> None:
    text = (DOCKER / "service.Dockerfile").read_text()
    command = re.search(r"^CMD \[(.+)\]$", text, re.MULTILINE)
    assert command is not None
    verb, *options = [part.strip(' "') for part in command[1].split(",")]
    shown = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200"}).stdout
    assert all(option in shown for option in options if option.startswith("--"))


def test_the_service_needs_no_torch() -> None:
    needed = [one for one in requires("dropt") or [] if "extra ==" not in one]
    assert needed
    assert not any(re.match(r"torch\b", one) for one in needed)
