"""Gives readers what strangers write, led by the lines that an input reaches: the readers of `fuzz.py` under atheris.

    python benchmarks/guided.py cif -max_total_time=600 -rss_limit_mb=2048 -timeout=10

After the name of a reader come options of libFuzzer. It begins with the corpus of the tests and stops at the first
input that raises what is not documented, takes too long or too much memory, and writes that input to a file.
"""

import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["crystalmax"]):
    from crystalmax.checkpoint import WEIGHTS, load
    from crystalmax.reading.cif import read_cif
    from crystalmax.reading.formats import read_json, read_poscar, read_xyz
    from crystalmax.spec import read_recipe

import fuzz

from crystalmax.storage.writing import checksum_of, hash_of

STRUCTURES = {"cif": read_cif, "poscar": read_poscar, "xyz": read_xyz, "json": read_json}
"""These answer with a refusal and raise nothing at all; those below may raise ValueError."""


def manifest(folder: Path, content: bytes) -> None:
    """A manifest beside sound arrays."""
    data = fuzz.data_set(folder)
    (data / "manifest.json").write_bytes(_signed(content, fuzz.CONTENT))
    fuzz.opened(data)


def recipe(folder: Path, content: bytes) -> None:
    """A recipe and the parts that it names."""
    (folder / "x.toml").write_bytes(content)
    fuzz.built(read_recipe(folder / "x.toml"))


def spec(folder: Path, content: bytes) -> None:
    """A spec beside sound weights."""
    model = fuzz.trained(folder)
    (model / "spec.json").write_bytes(_signed(content))
    load(model)


def weights(folder: Path, content: bytes) -> None:
    """Weights beside a spec that has their checksum."""
    model = fuzz.trained(folder)
    plain = json.loads((folder / "spec.json").read_bytes()) | {"files": {WEIGHTS: checksum_of(content)}}
    (model / "spec.json").write_bytes(_signed(json.dumps(plain).encode()))
    (model / WEIGHTS).write_bytes(content)
    load(model)


FILES = {"manifest": manifest, "recipe": recipe, "spec": spec, "weights": weights}


def _signed(content: bytes, names: tuple[str, ...] | None = None) -> bytes:
    """Plain data with the right hash of itself, which no chance would find; other bytes as they are."""
    try:
        plain = json.loads(content)
        hashed = {name: plain[name] for name in (names or plain) if name != "content_hash"}
        return json.dumps({**plain, "content_hash": hash_of(hashed)}).encode()
    except (ValueError, TypeError, KeyError, RecursionError):
        return content


def _begins(name: str, folder: Path) -> list[bytes]:
    """Valid inputs."""
    if name in STRUCTURES:
        return fuzz.seeds(name)
    if name == "recipe":
        return [path.read_bytes() for path in sorted(fuzz.RECIPES.glob("*.toml"))]
    if name == "manifest":
        fuzz.data_set(folder)
        return [(folder / "manifest.json").read_bytes()]
    fuzz.trained(folder)
    return [(folder / ("spec.json" if name == "spec" else "weights.safetensors")).read_bytes()]


def _structures(name: str, content: bytes) -> None:
    fuzz.all_canonical(STRUCTURES[name](content, "it", 1000))


def _file(read: Callable[[Path, bytes], None], folder: Path, content: bytes) -> None:
    try:
        read(folder, content)
    except ValueError as error:
        assert str(error), "an error must say something"  # noqa: PT017  # this is no test


def main() -> None:
    """Fuzz one reader."""
    warnings.simplefilter("ignore")
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in {**STRUCTURES, **FILES}:
        sys.exit(f"give the name of a reader: {', '.join([*STRUCTURES, *FILES])}")
    fuzz.prepare()
    with tempfile.TemporaryDirectory(dir=fuzz.MEMORY) as home:
        folder, corpus = Path(home) / "work", Path(home) / "corpus"
        folder.mkdir()
        corpus.mkdir()
        for number, content in enumerate(_begins(name, folder)):
            (corpus / str(number)).write_bytes(content)
        one = partial(_structures, name) if name in STRUCTURES else partial(_file, FILES[name], folder)
        atheris.Setup([*sys.argv, str(corpus)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
