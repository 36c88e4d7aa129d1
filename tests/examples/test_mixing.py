"""examples/mixing: a nanobind extension, built against the installed package and run beside it."""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path

import pytest
from reference import native_builds as builds

PACKAGE = Path(__file__).parents[2] / "examples" / "mixing"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the extension as pip installs it."""
    builds.need("nanobind")
    folder = tmp_path_factory.mktemp("mixing")
    builds.need_package_tools()
    shutil.copytree(PACKAGE, folder / "source")
    wheel = builds.build_wheel(folder / "source", folder)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_its_own_tests_pass(site: Path) -> None:
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", PACKAGE / "tests")
    assert re.search(r"\d+ passed", builds.python(*command, path=[site]))
