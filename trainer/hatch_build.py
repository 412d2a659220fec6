"""Builds the C kernels into a wheel, where there is a C compiler; without one the wheel has none.

The library knows no Python and no torch, so the wheel fits every Python on its kind of machine.
"""

import importlib.util
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import (  # type: ignore[import-not-found, unused-ignore]
    BuildHookInterface,
)

NATIVE = Path(__file__).parent / "dropt_trainer" / "native.py"


class KernelBuildHook(BuildHookInterface):  # type: ignore[misc, type-arg, unused-ignore]
    """Adds one file to a wheel that is no editable one: those build from their own source."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the files are collected; `version` is the kind of wheel."""
        if version == "editable":
            return
        native = _load_native()
        self._folder = tempfile.TemporaryDirectory()
        built = Path(self._folder.name) / native.SHIPPED.name
        try:
            native.build(built)
        except native.KernelUnavailable as error:
            self.app.display_warning(f"No C kernels in this wheel: {error}")
            return
        inside = native.SHIPPED.relative_to(NATIVE.parents[1])
        build_data["force_include"][str(built)] = str(inside)
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data.update(pure_python=False, tag=f"py3-none-{platform}")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called once the wheel is written."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()


def _load_native() -> Any:  # Any: a module that is loaded by its path, without the package
    spec = importlib.util.spec_from_file_location("native", NATIVE)
    assert spec is not None, "a file that is there"
    assert spec.loader is not None, "a Python file"
    native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    return native
