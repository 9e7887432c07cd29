"""Feeds broken input to whatever reads what strangers wrote, and counts crashes, hangs and excesses of memory.

    python benchmarks/fuzz.py --total 1000000 --seed 0 --out benchmarks/results/fuzz.json

Input number i of a target is a function of (seed, target, i): one of the valid inputs in `tests/corpus` or made here,
changed at random. A worker does one after another and names each beforehand, so that one that dies, or takes longer
than 10 s, is known and passed over; `--targets T --begin I --inputs I+1` does it again. Files are written to memory
where the system has a folder for it. Expected: nothing but the documented ValueError. `guided.py` gives the same
readers inputs that are led by the lines they reach.
"""

import argparse
import json
import random
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from machine import about, publish

from crystalmax.cells import canonical
from crystalmax.checkpoint import Model, load, save
from crystalmax.integrity import verify
from crystalmax.reading.cif import read_cif
from crystalmax.reading.formats import read_json, read_poscar, read_xyz
from crystalmax.reading.sources import read
from crystalmax.reading.structures import Reading
from crystalmax.spec import build, read_recipe, seeded_weights
from crystalmax.storage import disk
from crystalmax.storage.dataset import CrystalDataset, DatasetWriter
from crystalmax.storage.manifest import ARRAYS, CONTENT
from crystalmax.storage.writing import checksum, hash_of

CORPUS = Path(__file__).parents[1] / "tests" / "corpus"
RECIPES = Path(sys.modules["crystalmax"].__file__ or "").parent / "recipes"
MOST_SECONDS, MOST_BYTES = 10.0, 2 * 2**30
ASLEEP_SECONDS = 600
"""Without a word from a worker: it waits for something, as its own time is limited."""
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
NUMBERS = ("0", "-1", "1e308", "nan", "inf", "1e-320", "1000000000", "9" * 40, "?", ".", "", "1/2", "0.5(1)", "1e5")
WORDS = ("loop_", "data_y", "_atom_site_fract_x", "_cell_length_a", "'", '"', "\n;\n", "#", "x,y,z", "save_", "Xx", "D")
PLAIN: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    10**9,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../x",
    [],
    {},
    [[]],
)


def mutated(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """A few changes to bytes or to words."""
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(content) + 1)
        end = min(len(content), place + rng.choice((1, 2, 8, 64)))
        words = content.split(b" ")
        match rng.randrange(8):
            case 0 if content:
                content = content[: place - 1] + bytes([rng.randrange(256)]) + content[place:]
            case 1:
                content = content[:place] + content[end:]
            case 2:
                content = content[:place] + content[place:end] * rng.choice((2, 3, 50)) + content[end:]
            case 3:
                content = content[:place]
            case 4:
                content = content[:place] + rng.choice(WORDS).encode() + content[place:]
            case 5 if len(words) > 1:
                words[rng.randrange(len(words))] = rng.choice(NUMBERS).encode()
                content = b" ".join(words)
            case 6:
                other = rng.choice(others)
                content = content[:place] + other[rng.randrange(len(other) + 1) :]
            case 7:
                lines = content.splitlines(keepends=True)
                rng.shuffle(lines)
                content = b"".join(lines)
    return content


def mutated_plain(plain: Any, rng: random.Random) -> Any:
    """Plain data with one entry, at any depth, replaced, left out or copied to another name."""
    if isinstance(plain, dict) and plain and rng.random() < 0.9:
        name = rng.choice(sorted(plain))
        match rng.randrange(12):
            case 0:
                return {each: plain[each] for each in plain if each != name}
            case 1:
                return {**plain, rng.choice((*sorted(plain), "use", "later", "x")): plain[name]}
            case _:
                return {**plain, name: mutated_plain(plain[name], rng)}
    if isinstance(plain, list) and plain and rng.random() < 0.9:
        place = rng.randrange(len(plain))
        return [*plain[:place], mutated_plain(plain[place], rng), *plain[place + rng.randrange(2) :]]
    if isinstance(plain, int | float) and rng.random() < 0.5:
        return rng.choice((plain + 1, -plain, plain * 10**6, plain / 3))
    if isinstance(plain, str) and rng.random() < 0.5:
        return rng.choice((plain[:-1], plain + "x", f"os.{plain}", f"crystalmax.spec.{plain}", plain.upper(), "later"))
    return rng.choice(PLAIN)


@cache
def seeds(name: str) -> list[bytes]:
    """The valid inputs of a kind."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def fuzz_cif(folder: Path, rng: random.Random) -> bytes:
    """CIF text, read and brought to its canonical cell."""
    valid = seeds("cif")
    content = mutated(rng.choice(valid), rng, valid)
    all_canonical(read_cif(content, "it"))
    return content


def fuzz_formats(folder: Path, rng: random.Random) -> bytes:
    """POSCAR, extended XYZ and JSON."""
    name, reader = rng.choice((("poscar", read_poscar), ("xyz", read_xyz), ("json", read_json)))
    valid = seeds(name)
    if name == "json" and rng.random() < 0.7:
        content = json.dumps(mutated_plain(json.loads(rng.choice(valid)), rng)).encode()
    else:
        content = mutated(rng.choice(valid), rng, valid)
    all_canonical(reader(content, "it", 1000))
    return content


def fuzz_archive(folder: Path, rng: random.Random) -> bytes:
    """Archives of structures."""
    valid = seeds("archive")
    content = mutated(rng.choice(valid), rng, valid)
    (folder / "x.zip").write_bytes(content)
    list(read(folder / "x.zip", cell=canonical))
    return content


def data_set(folder: Path) -> Path:
    """A data set to break, with its files as they were beside it."""
    data = folder / "data"
    if not data.exists():
        with DatasetWriter(data, provenance={}) as writer:
            for content in seeds("cif"):
                for outcome in read_cif(content, "it"):
                    writer.add(outcome.crystal)
        for name in (*ARRAYS, "manifest.json"):
            (data / name).rename(folder / name)
    for name in ARRAYS:
        (data / name).write_bytes((folder / name).read_bytes())
    return data


def opened(data: Path) -> None:
    """Everything that can be read of a data set."""
    verify(data)
    found = CrystalDataset.open(data)
    list(found)
    found.batch(np.arange(len(found)))


def fuzz_manifest(folder: Path, rng: random.Random) -> bytes:
    """Data sets: manifests with right and wrong hashes, and arrays that say anything, read whole or by rows."""
    data = data_set(folder)
    manifest = (folder / "manifest.json").read_bytes()
    if rng.random() < 0.3:
        manifest = mutated(manifest, rng, [manifest])
    else:
        plain = json.loads(manifest)
        if rng.random() < 0.5:
            name = rng.choice(ARRAYS)
            content = bytearray((folder / name).read_bytes())
            content[rng.randrange(len(content))] = rng.randrange(256)
            (data / name).write_bytes(content)
            plain["sha256"][name] = checksum(data / name)["sha256"]
        else:
            plain = mutated_plain(plain, rng)
        if isinstance(plain, dict) and rng.random() < 0.8 and set(CONTENT) <= set(plain):
            plain["content_hash"] = hash_of({name: plain[name] for name in CONTENT})
        manifest = json.dumps(plain).encode()
    (data / "manifest.json").write_bytes(manifest)
    with patch.object(disk, "SMALL", rng.choice((0, disk.SMALL))):
        opened(data)
    return manifest


def fuzz_recipe(folder: Path, rng: random.Random) -> bytes:
    """Recipes, as TOML and as what is in them."""
    if rng.random() < 0.3:
        valid = [path.read_bytes() for path in sorted(RECIPES.glob("*.toml"))]
        content = mutated(rng.choice(valid), rng, valid)
        (folder / "x.toml").write_bytes(content)
        recipe = read_recipe(folder / "x.toml")
    else:
        recipe = mutated_plain(read_recipe(rng.choice(("fast", "paper", "cgcnn", "megnet", "alignn"))), rng)
        content = repr(recipe).encode()
    built(recipe)
    return content


def built(recipe: Any) -> None:
    """The parts that a recipe names."""
    with seeded_weights(0):
        build(recipe.get("objective") if isinstance(recipe, dict) else recipe)
        build(recipe.get("geometry") if isinstance(recipe, dict) else recipe)


def trained(folder: Path) -> Path:
    """A model to break, with its files as they were beside it."""
    model = folder / "model"
    if not model.exists():
        recipe = read_recipe("fast")
        with seeded_weights(0):
            save(Model(build(recipe["objective"]), build(recipe["geometry"]), {}), model)
        for name in ("spec.json", "weights.safetensors"):
            (folder / name).write_bytes((model / name).read_bytes())
    return model


def fuzz_weights(folder: Path, rng: random.Random) -> bytes:
    """Model folders: specs with right and wrong hashes, and weights."""
    model = trained(folder)
    weights, spec = (folder / "weights.safetensors").read_bytes(), json.loads((folder / "spec.json").read_bytes())
    if rng.random() < 0.5:
        head, tail = weights[:6000], weights[6000:]
        weights = mutated(head, rng, [head]) + tail
    else:
        spec = mutated_plain(spec, rng)
    (model / "weights.safetensors").write_bytes(weights)
    if isinstance(spec, dict) and rng.random() < 0.8:
        if isinstance(spec.get("files"), dict) and rng.random() < 0.8:
            spec["files"] = {"weights.safetensors": checksum(model / "weights.safetensors")}
        spec["content_hash"] = hash_of({name: spec[name] for name in spec if name != "content_hash"})
    content = json.dumps(spec).encode()
    (model / "spec.json").write_bytes(content)
    load(model)
    return content


def all_canonical(outcomes: list[Any]) -> None:
    """Canonical cells of what was read."""
    assert outcomes, "a reader must say something"
    for outcome in outcomes:
        if isinstance(outcome, Reading):
            canonical(outcome.crystal)


TARGETS: dict[str, Callable[[Path, random.Random], bytes]] = {
    "cif": fuzz_cif,
    "formats": fuzz_formats,
    "archive": fuzz_archive,
    "manifest": fuzz_manifest,
    "recipe": fuzz_recipe,
    "weights": fuzz_weights,
}
SHARES = {"cif": 0.3, "formats": 0.25, "archive": 0.2, "manifest": 0.15, "recipe": 0.05, "weights": 0.05}
"""Of all inputs: reading is quick, making networks is not."""
SILENT = {"cif", "formats", "archive"}
"""Targets that answer with a refusal and raise nothing at all."""


def one(target: str, folder: Path, rng: random.Random) -> str:
    """Do one input; what went wrong, or nothing."""
    try:
        TARGETS[target](folder, rng)
    except ValueError as error:
        if target in SILENT or not str(error):
            return traceback.format_exc()
    except Exception:
        return traceback.format_exc()
    return ""


def prepare() -> None:
    """Keep what pymatgen makes anew for every file: space groups, which take it a tenth of a second, and a table."""
    import pymatgen.io.cif
    from pymatgen.symmetry.groups import SpaceGroup

    pymatgen.io.cif.loadfn = cache(pymatgen.io.cif.loadfn)
    _KEPT.extend(SpaceGroup(name) for name in ("P1", "P-1", "P6_3mc", "R-3m:R", "Pm-3m", "Fm-3m", "Im-3m"))


_KEPT: list[object] = []


def work(target: str, seed: int, begin: int, end: int) -> None:
    """A worker: names each input, does it, and says how it went."""
    prepare()
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        for number in range(begin, end):
            print(json.dumps({"begun": number}), flush=True)
            # Ends this process, wherever it is, after so much time of its own: what others do here is no hang.
            signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
            began = time.process_time()
            wrong = one(target, Path(folder), random.Random(f"{seed}/{target}/{number}"))
            seconds = time.process_time() - began
            signal.setitimer(signal.ITIMER_PROF, 0)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            print(json.dumps({"wrong": wrong, "seconds": seconds, "bytes": peak}), flush=True)


def watch(target: str, seed: int, begin: int, n_inputs: int, most_seconds: float) -> dict[str, Any]:
    """Let workers do all inputs of a target."""
    found: dict[str, Any] = {"inputs": 0, "crashes": [], "hangs": [], "excesses": [], "slowest_s": 0.0, "peak_GB": 0.0}
    until, number = time.monotonic() + most_seconds, begin
    while number < n_inputs and time.monotonic() < until:
        asked = [sys.executable, __file__, "--worker", target, "--seed", str(seed)]
        asked += ["--begin", str(number), "--inputs", str(min(n_inputs, number + 20_000))]
        with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as worker:
            line = "begins"
            while line and time.monotonic() < until:
                ready, _, _ = select.select([worker.stdout], [], [], ASLEEP_SECONDS)
                line = worker.stdout.readline() if ready else ""
                said = json.loads(line or "{}")
                number = said.get("begun", number)
                if "wrong" in said:
                    _note(found, number, said)
                    number += 1
            asleep = not ready
            if not line and ready:
                worker.wait()
            worker.kill()
        if asleep or worker.returncode == -signal.SIGPROF:
            found["hangs"].append(number)
            number += 1
        elif worker.returncode not in (0, -signal.SIGKILL):
            found["crashes"].append({"input": number, "error": f"exit code {worker.returncode}"})
            number += 1
    return found


def _note(found: dict[str, Any], number: int, said: dict[str, Any]) -> None:
    found["inputs"] += 1
    if said["seconds"] > found["slowest_s"]:
        found |= {"slowest": number, "slowest_s": round(said["seconds"], 3)}
    if said["wrong"]:
        found["crashes"].append({"input": number, "error": said["wrong"]})
    if said["seconds"] > MOST_SECONDS:
        found["hangs"].append(number)
    if said["bytes"] > MOST_BYTES and found["peak_GB"] * 2**30 <= MOST_BYTES:
        found["excesses"].append(number)
    found["peak_GB"] = round(max(found["peak_GB"], said["bytes"] / 2**30), 3)


def main() -> None:
    """Fuzz the targets one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--inputs", type=int, default=5000, help="for each target")
    parser.add_argument("--total", type=int, help="instead: for all targets together, most for those that are quick")
    parser.add_argument("--minutes", type=float, default=1e6, help="for each target, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", choices=TARGETS, help=argparse.SUPPRESS)
    parser.add_argument("--begin", type=int, default=0, help="number of the first")
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.seed, options.begin, options.inputs)
        return
    print(f"seed {options.seed}", file=sys.stderr)
    shares = {name: SHARES[name] / sum(SHARES[each] for each in options.targets) for name in options.targets}
    found: dict[str, Any] = {}
    for name in options.targets:
        most = round(shares[name] * options.total) if options.total else options.inputs
        began = time.monotonic()
        found[name] = watch(name, options.seed, options.begin, most, 60 * options.minutes)
        found[name]["inputs_per_second"] = round(found[name]["inputs"] / (time.monotonic() - began), 1)
        print(json.dumps({name: found[name]}), file=sys.stderr, flush=True)
    total = sum(each["inputs"] for each in found.values())
    publish({"benchmark": "fuzz", "seed": options.seed, **about(), "inputs": total, "targets": found}, options.out)


if __name__ == "__main__":
    main()
