"""Kills ingest, pretrain, finetune and study at random moments, and compares what they leave with undisturbed runs.

    python benchmarks/kills.py --kills 200 --seed 0 --out benchmarks/results/kills.json

Every command runs once undisturbed. Then it is begun anew, killed by SIGKILL or SIGTERM at a moment drawn between a
quarter of its usual time, when everything is imported, and a little after its usual end, and called again, until one
call ends by itself; its files must be the same bytes. What was finished when the signal came must still be there,
untouched. Expected: nothing lost, nothing different.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from machine import about, publish

RADII = {"Li": 0.8, "Na": 1.0, "K": 1.4, "Rb": 1.5, "Mg": 0.7, "Ca": 1.0, "Sr": 1.2, "Ba": 1.4, "Fe": 0.8, "Zn": 0.7}
ANIONS = {"F": 1.3, "Cl": 1.8, "Br": 2.0, "O": 1.4, "S": 1.8, "Se": 2.0}
GROUPS = {"F m -3 m": 2.0, "P m -3 m": 2 / 3**0.5}
RECIPE = """
[objective]
use = "DeepInfoMax"
encoder = { use = "SiteNet", site_width = 8, crystal_width = 8, hidden = 16 }

[training]
epochs = 12
sites_per_batch = 400
"""
SETTINGS = '[salts]\nproperties = { edge = "A" }\n'
ALONE = {**os.environ, "PATH": "/nowhere"}
"""Without git, whose commit, which results carry, may change meanwhile."""
MOST_CALLS = 40
"""Calls after which a command is let run undisturbed to its end."""


@dataclass(frozen=True)
class Command:
    """What is called, and what it leaves.

    Attributes:
        arguments: Of the command, given the folder of its output.
        again: Arguments that are added if the output is there already.
        same: Files that must be the same bytes as undisturbed.
        kept: Files that, once there, are not written again.
        at_once: Whether the output is whole as soon as it is there, and a further call refuses to write over it.
    """

    arguments: Callable[[Path], list[str]]
    again: tuple[str, ...]
    same: tuple[str, ...]
    kept: tuple[str, ...] = ()
    at_once: bool = False


def cif_of(cation: str, anion: str, group: str) -> str:
    """A salt of two elements."""
    edge = GROUPS[group] * (RADII[cation] + ANIONS[anion])
    cell = "".join(f"_cell_length_{axis} {edge:.4f}\n" for axis in "abc")
    cell += "".join(f"_cell_angle_{angle} 90\n" for angle in ("alpha", "beta", "gamma"))
    columns = "loop_\n_atom_site_type_symbol\n" + "".join(f"_atom_site_fract_{axis}\n" for axis in "xyz")
    return f"data_x\n{cell}_space_group_name_H-M_alt '{group}'\n{columns}{cation} 0 0 0\n{anion} 0.5 0.5 0.5\n"


def commands(home: Path) -> dict[str, Command]:
    """The commands, over inputs that are written here; all but `ingest` need what those before them made."""
    salts = list(product(RADII, ANIONS, GROUPS))
    rows = [
        {"id": "".join((*salt[:2], salt[2][0])), "cif": cif_of(*salt), "edge": RADII[salt[0]] + ANIONS[salt[1]]}
        for salt in salts
    ]
    (home / "tables").mkdir()
    pd.DataFrame(rows).to_parquet(home / "tables" / "salts.parquet")
    pd.DataFrame(rows[:40]).to_csv(home / "labelled.csv", index=False)
    many = [{**row, "id": f"{row['id']}-{copy}"} for copy in range(20) for row in rows]
    pd.DataFrame(many).to_parquet(home / "many.parquet")
    (home / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    (home / "study.toml").write_text(SETTINGS, encoding="utf-8")
    tuned = ["--target", "edge", "--model", f"{home}/pretrain", "--epochs", "6", "--jobs", "1"]
    study = [f"{home}/study.toml", "--data", f"{home}/tables", "--budget", "tiny", "--jobs", "1"]
    parts = [word for part in ("leakage", "transfer") for word in ("--parts", part)]
    return {
        "ingest": Command(
            lambda out: [f"{home}/many.parquet", "--out", str(out), "--jobs", "1"], (), ("*",), at_once=True
        ),
        "pretrain": Command(
            lambda out: [f"{home}/ingest", "--out", str(out), "--recipe", f"{home}/recipe.toml"],
            ("--resume",),
            ("weights.safetensors", "spec.json", "run.json"),
        ),
        "finetune": Command(lambda out: [f"{home}/labelled.csv", *tuned, "--out", str(out)], (), ("*",), at_once=True),
        "study": Command(
            lambda out: [*study, *parts, "--out", str(out)],
            (),
            ("data/*/*", "cells/**/*.parquet", "cells/**/*.npz", "results.parquet", "networks/*/weights.safetensors"),
            ("data/*/*", "cells/**/*.parquet", "cells/**/*.npz"),
        ),
    }


def call(name: str, command: Command, out: Path, after: float | None = None, number: int = 0) -> tuple[int, float]:
    """Call a command; send it a signal after so many seconds. Returns its exit code and how long it took."""
    # A run that has not written its plan has not begun, and is begun again.
    again = command.again if (out / "run.json").exists() else ()
    asked = [sys.executable, "-m", "crystalmax", name, *command.arguments(out), *again]
    began = time.monotonic()
    with (out.parent / f"{out.name}.log").open("ab") as log:
        process = subprocess.Popen(asked, stdout=log, stderr=log, env=ALONE, start_new_session=True)
        try:
            process.wait(timeout=after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, number)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:  # SIGTERM may take a step to be heard
                os.killpg(process.pid, signal.SIGKILL)
    return process.wait(), time.monotonic() - began


def files(folder: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    """Whole files that match, without those that a write was cut off from."""
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    hidden = {path for path in found if any(part.startswith(".") for part in path.relative_to(folder).parts)}
    return (path for path in sorted(found - hidden) if path.suffix != ".partial")


def content(folder: Path, patterns: tuple[str, ...]) -> dict[str, bytes]:
    """What must not depend on how often a command was killed."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files(folder, patterns)}


def epochs(out: Path) -> list[str]:
    """The epochs that a run has finished, with how fast they were, which is never the same twice."""
    history = out / "history.jsonl"
    return history.read_text().splitlines() if history.exists() else []


def disturbed(
    name: str, command: Command, out: Path, usual: float, rng: random.Random, most: int
) -> tuple[Counter[str], list[str]]:
    """Call a command until it ends by itself: signals by name, and what was lost on the way."""
    kills: Counter[str] = Counter()
    lost = []
    while True:
        number = rng.choice((signal.SIGKILL, signal.SIGTERM))
        after = rng.uniform(0.25 * usual, 1.1 * usual) if sum(kills.values()) < min(most, MOST_CALLS) else None
        stamps = {path: path.stat().st_mtime_ns for path in files(out, command.kept)}
        before = epochs(out)
        code, _ = call(name, command, out, after, number)
        lost += [f"{path} was written again" for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp]
        if epochs(out)[: len(before)] != before:
            lost.append(f"{out}: finished epochs were done again")
        if code == 0 and (out.exists() or not command.at_once):
            return kills, lost
        if code == 0:
            kills["ended with 0 before the output was there"] += 1
            continue
        if after is None:
            return kills, [*lost, f"{out} did not end (exit code {code})"]
        kills[signal.Signals(number).name] += 1
        if command.at_once and out.exists():
            return kills, lost


def main() -> None:
    """Kill every command in turn until there were enough kills."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="in all")
    parser.add_argument("--minutes", type=float, default=1e6, help="at most, undisturbed runs included")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    print(f"seed {options.seed}", file=sys.stderr)
    rng, until = random.Random(options.seed), time.monotonic() + 60 * options.minutes
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        todo = commands(home)
        for name, command in todo.items():
            code, seconds = call(name, command, home / name)
            if code != 0:
                sys.exit(f"{name} failed undisturbed: {(home / f'{name}.log').read_text()[-2000:]}")
            result[name] = {"seconds": round(seconds, 1), "kills": Counter(), "runs": 0, "lost": [], "different": []}
        while _total(result) < options.kills and time.monotonic() < until:
            name = min(result, key=lambda each: result[each]["kills"].total())
            found, out = result[name], home / f"{name}-killed"
            left = options.kills - _total(result)
            kills, lost = disturbed(name, todo[name], out, found["seconds"], rng, left)
            expected, made = content(home / name, todo[name].same), content(out, todo[name].same)
            different = [each for each in expected.keys() | made.keys() if expected.get(each) != made.get(each)]
            found["kills"] += kills
            found["runs"] += 1
            found["lost"] += lost
            found["different"] += different
            print(json.dumps({name: {**found, "log": _tail(out) if lost else ""}}), file=sys.stderr, flush=True)
            shutil.rmtree(out, ignore_errors=True)
    counts = {each: sum(len(found[each]) for found in result.values()) for each in ("lost", "different")}
    facts = {"benchmark": "kills", "seed": options.seed, **about(), "kills": _total(result), **counts}
    publish({**facts, "commands": result}, options.out)


def _total(result: dict[str, Any]) -> int:
    return sum(found["kills"].total() for found in result.values())


def _tail(out: Path) -> str:
    return (out.parent / f"{out.name}.log").read_text()[-1000:]


if __name__ == "__main__":
    main()
