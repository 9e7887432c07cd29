"""Broken input, drawn by Hypothesis: nothing but the documented exceptions, within seconds."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalmax.cells import canonical
from crystalmax.reading.cif import read_cif
from crystalmax.reading.formats import read_json, read_poscar, read_xyz
from crystalmax.reading.sources import read
from crystalmax.reading.structures import Reading

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import fuzz

READERS = {"cif": read_cif, "poscar": read_poscar, "xyz": read_xyz, "json": read_json}
MOST_SECONDS = 3.0  # all but what pymatgen reads take hundredths; it takes one to make a space group


@pytest.fixture(scope="module", params=list(fuzz.TARGETS))
def target(request, tmp_path_factory):
    """A kind of input, with a folder to write it to; whatever is made only once is made."""
    import ase.io.extxyz  # noqa: F401  # which takes a second
    import pymatgen.io.cif  # noqa: F401

    folder = tmp_path_factory.mktemp(request.param)
    fuzz.one(request.param, folder, Random(0))
    return request.param, folder


@settings(max_examples=60)
@given(rng=st.randoms(use_true_random=False))
def test_broken_input_raises_nothing_else(target, rng):
    name, folder = target
    began = time.process_time()
    assert fuzz.one(name, folder, rng) == ""
    assert time.process_time() - began < MOST_SECONDS


@pytest.mark.parametrize("path", sorted(fuzz.CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_corpus_is_read(path):
    """What is valid gives crystals; what once broke a reader, in `found`, gives a refusal or a crystal."""
    began = time.process_time()
    reader = READERS.get(path.parent.name if path.parent.name in READERS else path.suffix[1:])
    outcomes = reader(path.read_bytes(), "it", 1000) if reader else [record for record in read(path)]
    assert outcomes
    for outcome in outcomes:
        if isinstance(outcome, Reading):
            canonical(outcome.crystal)
        elif path.parent.name != "found":
            assert not reader
            assert outcome.crystal is not None
    assert time.process_time() - began < MOST_SECONDS


def test_a_planted_crash_is_noticed(tmp_path, monkeypatch):
    def crash(folder, rng):
        raise KeyError("planted")

    monkeypatch.setitem(fuzz.TARGETS, "cif", crash)
    assert "KeyError: 'planted'" in fuzz.one("cif", tmp_path, Random(0))
    monkeypatch.setitem(fuzz.TARGETS, "weights", lambda folder, rng: int("no number"))
    assert fuzz.one("weights", tmp_path, Random(0)) == ""
    monkeypatch.setitem(fuzz.TARGETS, "cif", lambda folder, rng: int("no number"))
    assert "ValueError" in fuzz.one("cif", tmp_path, Random(0))


def test_an_input_is_a_function_of_its_number():
    valid = fuzz.seeds("cif")
    for number in range(20):
        one, other = (fuzz.mutated(valid[0], Random(f"0/cif/{number}"), valid) for _ in range(2))
        assert one == other
    assert len({fuzz.mutated(valid[0], Random(number), valid) for number in range(50)}) > 45


def test_a_planted_hang_ends_the_worker():
    script = f"""
import sys
sys.path.append({str(Path(fuzz.__file__).parent)!r})
import fuzz
fuzz.MOST_SECONDS = 0.2
fuzz.TARGETS["cif"] = lambda folder, rng: any(iter(int, 1))
fuzz.work("cif", 0, 0, 2)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert done.returncode == -signal.SIGPROF
    assert done.stdout == b'{"begun": 0}\n'
