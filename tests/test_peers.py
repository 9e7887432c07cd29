"""What the scripts of peers write has the layout of `crystalmax represent`, whatever fails on the way."""

import importlib.util
import io
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from crystalmax.encoders import SiteNet
from crystalmax.featurizer import CrystalFeaturizer
from crystalmax.prediction import represent
from crystalmax.reading.ingest import canonical_records

PEERS = Path(__file__).parent.parent / "benchmarks" / "peers"


@pytest.fixture(scope="module")
def exchange():
    spec = importlib.util.spec_from_file_location("exchange", PEERS / "exchange.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "exchange", module)  # where worker processes look for it
        spec.loader.exec_module(module)
        yield module


def rock_salt(cation, a=4.0):
    corners = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
    return Structure(Lattice.cubic(a), [cation] * 4 + ["Cl"] * 4, [*corners, *(corners + 0.5)])


def vectors(structures):
    """Two numbers a crystal; one poisonous crystal spoils the batch that it is in, another has no number."""
    if any("Cs" in structure.composition for structure in structures):
        raise RuntimeError("no bonds")
    return np.array([[len(one), np.nan if "Rb" in one.composition else one.volume] for one in structures])


@pytest.fixture
def table(tmp_path):
    mixed = Structure(Lattice.cubic(3), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]])
    large = rock_salt("Na") * (2, 1, 1)
    cifs = {
        "good": rock_salt("Na").to(fmt="cif"),
        "broken": "data_x\nno crystal",
        "mixed": mixed.to(fmt="cif"),
        "poison": rock_salt("Cs").to(fmt="cif"),
        "large": large.to(fmt="cif"),
        "number": rock_salt("Rb").to(fmt="cif"),
        "7": rock_salt("K", a=5.0).to(fmt="cif"),
    }
    path = tmp_path / "crystals.parquet"
    pd.DataFrame({"material_id": list(cifs), "cif": list(cifs.values())}).to_parquet(path)
    return path


@pytest.fixture
def written(exchange, table, monkeypatch, capsys):
    out = table.with_name("vectors.parquet")
    monkeypatch.setattr(sys, "argv", ["toy", str(table), "--out", str(out), "--max-sites", "10"])
    exchange.main("toy", {"toy": lambda seed: vectors}, packages=())
    assert "2 rows in" in capsys.readouterr().out
    return pd.read_parquet(out)


def test_rows_stand_where_their_crystals_stood_and_failures_are_named(written):
    assert written.key.tolist() == ["good", "broken", "mixed", "poison", "large", "number", "7"]
    good = written.refusal == ""
    assert written.key[good].tolist() == ["good", "7"]
    np.testing.assert_allclose(written.loc[good, ["toy_000", "toy_001"]], [[8, 64], [8, 125]])
    assert written.loc[~good, ["toy_000", "toy_001"]].isna().all(axis=None)
    reasons = written.set_index("key").refusal
    assert "disordered" in reasons["mixed"]
    assert "no bonds" in reasons["poison"]
    assert "16 sites" in reasons["large"]
    assert "not finite" in reasons["number"]


def test_the_layout_is_that_of_represent(written, table):
    ours = represent(canonical_records(table), CrystalFeaturizer(SiteNet(crystal_width=2), statistics=False))
    ours = ours.drop(columns="note")  # canonical crystals have none
    assert [name.replace("toy", "crystalmax") for name in written] == list(ours)
    assert list(written.dtypes) == list(ours.dtypes)


def test_answers_keep_the_order_of_the_question(exchange, monkeypatch):
    question = [rock_salt(cation, a).to(fmt="cif") for cation, a in (("K", 5.0), ("Na", 4.0))]
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(question) + "\n"))
    answers = io.StringIO()
    exchange.serve(vectors, exchange.ordered_structure, ["numpy"], answers)
    greeting, answer = map(json.loads, answers.getvalue().splitlines())
    assert greeting == {"versions": {"numpy": np.__version__}}
    np.testing.assert_allclose(answer["rows"], [[8, 125], [8, 64]])
    assert min(answer["reading"], answer["encoding"]) > 0


def test_a_name_given_twice_is_refused(exchange, table, monkeypatch):
    twice = pd.read_parquet(table).assign(material_id="same")
    twice.to_parquet(table)
    monkeypatch.setattr(sys, "argv", ["toy", str(table), "--out", "never.parquet"])
    with pytest.raises(SystemExit, match="'same' stands twice"):
        exchange.main("toy", {"toy": lambda seed: vectors}, packages=())
