"""What is packed: nothing that is needed at run time stays behind. `.ci/package` installs and runs it."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from crystalmax import __version__

ROOT = Path(__file__).parent.parent
BUILD = "from setuptools import build_meta as b; b.build_wheel('dist'); b.build_sdist('dist')"


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Names in a wheel and in a source distribution, made of a copy without anything that was built before."""
    home = tmp_path_factory.mktemp("package")
    shutil.copytree(
        ROOT / "src", home / "src", ignore=shutil.ignore_patterns("*.so", "*.pyd", "*.egg-info", "__pycache__")
    )
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, home)
    (home / "tests").mkdir()
    shutil.copy(__file__, home / "tests")
    quick = {**os.environ, "CFLAGS": "-O0"}
    subprocess.run([sys.executable, "-c", BUILD], cwd=home, env=quick, check=True, capture_output=True)
    (wheel,), (source,) = (home / "dist").glob("*.whl"), (home / "dist").glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive, tarfile.open(source) as other:
        return home, set(archive.namelist()), {name.partition("/")[2] for name in other.getnames()}


def test_the_wheel_holds_every_file_of_the_package(packed):
    home, wheel, _ = packed
    files = (path for path in (home / "src" / "crystalmax").rglob("*") if path.is_file() and path.suffix != ".so")
    assert {path.relative_to(home / "src").as_posix() for path in files} - wheel == set()
    for name in ("py.typed", "weights/weights.safetensors", "weights/spec.json", "recipes/intrinsic.toml"):
        assert f"crystalmax/{name}" in wheel
    for name in ("templates/report.html", "study/paper.toml", "data/elements.csv"):
        assert f"crystalmax/{name}" in wheel
    if shutil.which("cc"):
        assert any(name.startswith("crystalmax/_native") for name in wheel)


def test_the_wheel_holds_nothing_else(packed):
    _, wheel, _ = packed
    assert {name.partition("/")[0] for name in wheel} == {"crystalmax", f"crystalmax-{__version__}.dist-info"}
    assert {name for name in wheel if name.endswith((".c", ".h", ".pyc"))} == set()


def test_the_source_distribution_holds_what_the_wheel_is_made_of(packed):
    home, _, source = packed
    files = {path.relative_to(home).as_posix() for path in (home / "src").rglob("*") if path.is_file()}
    wanted = {name for name in files if ".egg-info" not in name and not name.endswith((".so", ".pyd"))}
    assert wanted | {"pyproject.toml", "README.md", "LICENSE"} <= source
    assert {name for name in source if name.startswith("tests")} == set()  # they need more than what is packed
