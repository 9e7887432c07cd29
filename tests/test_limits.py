"""What strangers may ask for: an entry that asks for too much is refused in a sentence, quickly, and spoils nothing."""

import ast
import io
import json
import re
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pymatgen.core import Lattice, Structure

import crystalmax
from crystalmax import limits, spec
from crystalmax.reading import sources
from crystalmax.reading.cif import read_cif
from crystalmax.reading.formats import read_json, read_poscar, read_xyz
from crystalmax.reading.sources import read
from crystalmax.reading.structures import Refused
from crystalmax.reading.tables import rows_of
from crystalmax.spec import seeded_weights
from test_cif import XYZ, cif, named
from test_sources import CESIUM, POSCAR, SALT, zipped

MOST_SECONDS = 5
GRID = "\n".join(f"Cs {x / 400:.4f} {y / 400:.4f} {z / 400:.4f}" for x, y, z in np.ndindex(1, 400, 400))
TRIPLETS = "loop_\n_space_group_symop_operation_xyz\n"


def atoms(rows):
    return (f"type_symbol {XYZ}", *rows)


def crowd(n):
    rng = np.random.default_rng(0)
    return [f"Cs {x:.5f} {y:.5f} {z:.5f}" for x, y, z in 0.3 + rng.uniform(0, 1e-3, (n, 3))]


def broken(n_atoms, n_operations, **options):
    """What pymatgen reads and gemmi does not: a fifth as a translation."""
    operations = TRIPLETS + "'x+1/5,y,z'\n" + "".join(f"'x+{i}/{n_operations},y,z'\n" for i in range(n_operations))
    rows = [f"Cs {i / n_atoms / n_operations:.5f} 0 0" for i in range(n_atoms)]
    return cif(atoms(rows), cell=(900, 5, 5, 90, 90, 90), symmetry=operations, **options)


def together(symmetry):
    return cif(atoms(["Cs 0 0 0", "Na 0 0 0"]), symmetry=symmetry)


GREEDY = {
    "a million atoms": (lambda: cif(atoms(GRID.splitlines() * 7)), r"has 1,120,000 atoms, more than the 100,000"),
    "more atoms than sites": (
        lambda: cif(atoms(GRID.splitlines()[:10_001])),
        r"has 10,001 atoms, more than the 10,000",
    ),
    "a million operations": (
        lambda: cif(atoms(["Cs 0 0 0"]), symmetry=TRIPLETS + "x,y,z\n" * 10**6),
        r"has 1,000,000 symmetry operations, more than the 1,024",
    ),
    "atoms times operations": (
        lambda: cif(atoms(GRID.splitlines()[:90_000]), symmetry=named("F m -3 m")),
        r"has 17,280,000 atoms by symmetry, more than the 1,000,000",
    ),
    "a crowd": (lambda: cif(atoms(crowd(9000))), r"has 9,000 atoms within 1 angstrom, more than the 100"),
    "thin atoms everywhere": (
        lambda: cif((f"type_symbol occupancy {XYZ}", *(f"Cs 0.01 {row[3:]}" for row in GRID.splitlines()[::170]))),
        r"has 942 sites in 125 cubic angstrom; list each atom once",
    ),
    "a place far away": (lambda: cif(atoms(["Cs 1e308 0 0"])), "or a place measures 1e.308 angstrom, more than 1000"),
    "a cell without end": (
        lambda: cif(atoms(["Cs 0 0 0"]), cell=(1e300, 5, 5, 90, 90, 90)),
        "measures 1e.300 angstrom",
    ),
    "slow for pymatgen": (lambda: broken(500, 100), r"has 50,500 atoms by symmetry, and gemmi cannot read it"),
    "many operations for pymatgen": (lambda: broken(1, 2000), "has 2,001 symmetry operations"),
    "large and broken": (lambda: "data_x\n_a 'x\n_atom_site_fract_x\n" + "y z\n" * 10**6, "too large, or a line"),
    "a line of quotes": (lambda: "data_x\n_a 'x\n_atom_site_fract_x " + "'a'b" * 10**5, "too large, or a line"),
    "a long element": (lambda: cif(atoms(["Q" * 10**7 + " 0 0 0"])), "'QQQQQQ"),
    "a long number": (lambda: cif(atoms(["Cs 0 0 0"]), cell=("x" * 10**7, 5, 5, 90, 90, 90)), "_cell_length_a is"),
    "a long formula": (lambda: cif(atoms(["Qq 0 0 0"]), extra=f"_chemical_formula_sum '{'Na1 ' * 10**6}'"), "'Qq'"),
    "a long space group": (lambda: together(f"_symmetry_space_group_name_H-M 'P{' ' * 10**5}x'"), "sum to 2"),
    "a long number of a space group": (lambda: together(f"_symmetry_Int_Tables_number {'1' * 10**5}"), "sum to 2"),
}


@pytest.mark.parametrize("name", GREEDY)
def test_a_greedy_cif_is_refused_quickly(name):
    make, said = GREEDY[name]
    text = make()
    began = time.process_time()
    greedy, good = read(text, CESIUM)
    assert time.process_time() - began < MOST_SECONDS
    with pytest.raises(ValueError, match=said):
        raise greedy.refusal
    assert len(str(greedy.refusal)) < 1500
    assert good.crystal is not None


def test_limits_leave_room_for_what_is_read_today():
    crowded = read_cif(cif(atoms(crowd(limits.MAX_TOGETHER))))[0]
    assert crowded.crystal.n_sites == 1  # listed often, kept once
    at_most = cif(atoms(["Cs 0 0 0"]), symmetry=TRIPLETS + "x,y,z\n" * limits.MAX_OPERATIONS)
    assert read_cif(at_most)[0].crystal.n_sites == 1
    assert read_cif(broken(5, 5))[0].crystal.n_sites == 25


def test_too_many_blocks_are_refused(monkeypatch):
    monkeypatch.setattr("crystalmax.limits.MAX_STRUCTURES", 2)
    block = cif(atoms(["Cs 0 0 0"]), name="{}")
    assert len(read_cif(block.replace("{}", "a") + block.replace("{}", "b"))) == 2
    (refused,) = read_cif("".join(block.replace("{}", name) for name in "abc"))
    assert "has 3 data blocks, more than the 2" in refused.reason
    (refused,) = read_cif("".join(block.replace("{}", name) for name in "abc") + "data_d\n_e 'f\n")
    assert "has 3 data blocks, more than the 2" in refused.reason  # also where gemmi cannot read one of them


FRAME = '1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 pbc="T T T"\nNa 0 0 0\n'
GREEDY_FILES = {
    "POSCAR of 10^12 atoms": (read_poscar, POSCAR.replace("1 1\n", f"1 {10**12}\n"), "states 1,000,000,000,001 atoms"),
    "frame of 10^12 atoms": (read_xyz, f'{10**12}\nLattice="4 0 0 0 4 0 0 0 4"\nNa 0 0 0\n', "a frame states 10000"),
    "number of 10^6 digits": (read_xyz, "9" * 10**6 + "\n\n", "cannot be read"),
    "columns of 10^9 numbers": (
        read_xyz,
        f'1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:x:R:{10**9}\nNa 0 0 0\n',
        "columns of thousands of numbers",
    ),
    "JSON of many sites": (read_json, json.dumps({"sites": [0] * 10**5 + [1], "lattice": {}}), "has 100,001 atoms"),
    "JSON of many structures": (read_json, "[" + "1," * 10**5 + "1]", "has 100,001 entries, more than the 100,000"),
    "JSON of many names": (
        read_json,
        json.dumps({name: 0 for name in range(10**5 + 1)}),
        "has 100,001 entries, more than the 100,000",
    ),
    "a frame without end": (read_xyz, FRAME.replace("4", "1e200"), "measures 1e+200 angstrom"),
    "bottomless JSON": (read_json, "[" * 10**6, "no valid JSON"),
}


@pytest.mark.parametrize("name", GREEDY_FILES)
def test_a_greedy_file_of_another_format_is_refused_quickly(name):
    reader, text, said = GREEDY_FILES[name]
    began = time.process_time()
    (refused,) = reader(text.encode(), "it", 1000)
    assert time.process_time() - began < MOST_SECONDS
    assert isinstance(refused, Refused)
    assert said in refused.reason


def test_too_many_frames_are_refused(monkeypatch):
    monkeypatch.setattr("crystalmax.limits.MAX_STRUCTURES", 2)
    assert len(read_xyz(FRAME.encode() * 2, "it", 10)) == 2
    (refused,) = read_xyz(FRAME.encode() * 3, "it", 10)
    assert "has 3 frames, more than the 2" in refused.reason


def test_reading_json_imports_nothing_that_it_names(tmp_path, monkeypatch):
    (tmp_path / "planted.py").write_text("raise SystemExit('a stranger ran code')")
    monkeypatch.syspath_prepend(tmp_path)
    plain = Structure(Lattice.cubic(4), ["Na"], [[0, 0, 0]]).as_dict()
    named_module = {"@module": "planted", "@class": "Anything"}
    plain["sites"][0]["properties"] = {"spin": named_module}
    plain["properties"] = {"note": named_module}
    plain["lattice"] = {**plain["lattice"], "note": named_module}
    for entry in (plain, [plain, plain], {"a": plain}):
        for outcome in read_json(json.dumps(entry).encode(), "it", 10):
            assert outcome.crystal.n_sites == 1
    assert "planted" not in sys.modules


@pytest.mark.parametrize("name", ["x.traj", "x.gpw", "x.db", "x.py", "x.unknown"])
def test_formats_that_run_or_unpickle_are_not_read(name, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    import pickle

    (tmp_path / name).write_bytes(b"PickleTrajectory" + pickle.dumps(Bomb()))
    (record,) = read(tmp_path / name)
    assert "cannot be read" in record.refusal.reason
    assert not (tmp_path / "ran").exists()


def archive_of(tmp_path, content, **changes):
    """An archive of two entries, the first changed by whoever packed it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.cif", content, **changes)
        archive.writestr("b.cif", SALT)
    path = tmp_path / "x.zip"
    path.write_bytes(buffer.getvalue())
    return path


def test_names_command_no_terminal(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a\x1b[2J\u009b.cif").write_text(cif(atoms(["Cs 0 0 0"]), symmetry=named("P\x1b[31m")))
    (tmp_path / "folder" / "b\x1b]0;x\x07.cif").write_text(cif(atoms(["Qq 0 0 0"])))
    taken, refused = read(tmp_path / "folder")
    assert taken.key == "a?[2J?"
    assert taken.source == str(tmp_path / "folder" / "a?[2J?.cif")
    assert refused.key == "b?]0;x?"
    assert str(taken.notes).isprintable()
    assert str(refused.refusal).isprintable()


def test_a_decompression_bomb_is_refused_unpacked(tmp_path, monkeypatch):
    path = archive_of(tmp_path, b" " * 2**24)
    unpacked = []
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda self, entry: unpacked.append(entry.filename) or SALT.encode())
    bomb, good = read(path)
    assert "times larger than it is packed, more than the 200 that a structure can be" in bomb.refusal.reason
    assert good.crystal is not None
    assert unpacked == ["b.cif"]


def test_an_entry_that_is_larger_than_it_says_is_cut_off_and_refused(tmp_path):
    path = archive_of(tmp_path, b"# " + np.random.default_rng(0).bytes(2**23))
    content = path.read_bytes()
    true_size, false_size = (2**23 + 2).to_bytes(4, "little"), (1000).to_bytes(4, "little")
    assert content.count(true_size) == 2
    path.write_bytes(content.replace(true_size, false_size))
    bomb, good = read(path)
    assert "cannot be unpacked" in bomb.refusal.reason
    assert good.crystal is not None


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archives_packed_in_an_unusual_way_are_refused(method, tmp_path):
    other, good = read(archive_of(tmp_path, SALT, compress_type=method))
    assert f"packed by method {method}" in other.refusal.reason
    assert good.crystal is not None


def test_archives_in_archives_are_not_opened(tmp_path):
    inner = zipped(a__cif=SALT)
    for _ in range(5):
        inner = zipped(inner__zip=inner)
    (tmp_path / "x.zip").write_bytes(inner)
    (record,) = read(tmp_path / "x.zip")
    assert "archive within an archive" in record.refusal.reason


@pytest.mark.parametrize("form", ["csv", "parquet", "frame"])
def test_a_cell_of_a_table_may_not_be_huge(form, tmp_path, monkeypatch):
    for module in ("crystalmax.reading.sources", "crystalmax.limits"):
        monkeypatch.setattr(f"{module}.MAX_FILE_BYTES", 10**6)
    table = pd.DataFrame({"id": ["a", "b"], "cif": [SALT + "#" * 10**6, SALT]})
    if form != "frame":
        path = tmp_path / f"t.{form}"
        table.to_csv(path, index=False) if form == "csv" else table.to_parquet(path)
        table = path
    huge, good = read(table)
    assert "larger than" in huge.refusal.reason
    assert good.crystal is not None
    assert "larger than" in read_cif(SALT + "#" * 10**6)[0].reason


def test_a_cell_that_every_row_repeats_is_not_made_for_all_of_them(tmp_path):
    cell, n_rows = SALT + "#" * 2**18, 2000
    column = pa.DictionaryArray.from_arrays(pa.array([0] * n_rows, pa.int32()), pa.array([cell]))
    pq.write_table(pa.table({"cif": column}), tmp_path / "t.parquet", store_schema=False)
    assert (tmp_path / "t.parquet").stat().st_size < 2**18
    before, taken = pa.total_allocated_bytes(), []
    for row in rows_of(tmp_path / "t.parquet", "t"):
        assert row.cif == cell
        taken.append(pa.total_allocated_bytes() - before)
    assert len(taken) == n_rows
    assert max(taken) < 32 * len(cell)


def test_a_table_does_not_stay_in_memory_as_it_is_read(tmp_path):
    rng, schema = np.random.default_rng(0), pa.schema({"cif": pa.string()})
    with pq.ParquetWriter(tmp_path / "t.parquet", schema) as writer:
        for _ in range(40):  # groups of rows that cannot be packed
            writer.write_table(pa.table({"cif": [rng.bytes(2**15).hex() for _ in range(4)]}, schema=schema))
    before = pa.total_allocated_bytes()
    taken = [pa.total_allocated_bytes() - before for _ in rows_of(tmp_path / "t.parquet", "t")]
    assert len(taken) == 160
    assert max(taken) < (tmp_path / "t.parquet").stat().st_size / 4


def test_what_waits_for_a_worker_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "CHUNK_BYTES", 2 * len(SALT))
    chunks = []
    inner = sources._open
    monkeypatch.setattr(
        sources, "_open", lambda pieces, **options: chunks.append(len(pieces)) or inner(pieces, **options)
    )
    (tmp_path / "x.zip").write_bytes(zipped(**{f"{i}__cif": SALT for i in range(7)}))
    assert all(record.crystal for record in read(tmp_path / "x.zip"))
    assert chunks == [3, 3, 1]


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "yaml", "jsonpickle"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
FORBIDDEN_CALLS |= {"joblib.load", "joblib.dump", "pd.read_pickle", "yaml.load", "torch.save", "pickle.load"}
IMPORTERS = {"spec.py", "study/paper.py", "study/maps.py", "__init__.py"}  # names of their own, and what spec.py trusts


def dangers(tree, name):
    """Calls and imports by which data could become code, in one module."""
    for node in ast.walk(tree):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (module for module in modules if module.split(".")[0] in FORBIDDEN_MODULES | {"joblib.load"})
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if called in FORBIDDEN_CALLS:
                yield called
            if called == "torch.load" and given.get("weights_only") != "True":
                yield f"{called} without weights_only"
            if called.endswith(".fit") and "ckpt_path" in given and given.get("weights_only") != "True":
                yield f"{called} of a checkpoint without weights_only"
            if given.get("allow_pickle", "False") != "False" or given.get("shell", "False") != "False":
                yield f"{called} with a pickle or a shell"
            if called.endswith("import_module") and name not in IMPORTERS:
                yield called


def test_nothing_is_unpickled_evaluated_or_imported_by_name():
    root = Path(crystalmax.__file__).parent
    modules = {
        path.relative_to(root).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in root.rglob("*.py")
    }
    assert len(modules) > 60
    assert {name: found for name, tree in modules.items() if (found := sorted(dangers(tree, name)))} == {}


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle",
        "from pickle import loads",
        "import yaml",
        "def f(x):\n    return eval(x)",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "import joblib\njoblib.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "trainer.fit(module, ckpt_path='x')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "from importlib import import_module\nimport_module('x')",
    ],
)
def test_a_planted_danger_is_found(planted):
    assert [*dangers(ast.parse(planted), "toy.py")]
    assert not [*dangers(ast.parse("import torch\ntorch.load('x', weights_only=True)"), "toy.py")]


@pytest.mark.parametrize("recipe", ["infomax", "paper", "fast", "cgcnn", "megnet", "alignn"])
def test_the_size_of_every_shipped_recipe_is_known_before_it_is_made(recipe, monkeypatch):
    objective = spec.read_recipe(recipe)["objective"]
    made = []
    monkeypatch.setattr(spec, "MAX_WEIGHTS", 5000)
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, *_, **__: made.append(self.device.type) or self)
    with pytest.raises(ValueError, match=r"these are at least [\d,]+ weights in \d+ arrays, more than 5,000 in 10,000"):
        spec.build(objective)
    assert set(made) <= {"meta"}


def test_recipes_are_small_text(tmp_path):
    path = tmp_path / "x.toml"
    path.write_bytes(b"a = '" + b"x" * 2**20 + b"'")
    with pytest.raises(ValueError, match="larger than 1 MiB, which no recipe is"):
        spec.read_recipe(path)
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(ValueError, match="is not valid TOML"):
        spec.read_recipe(path)


def test_looking_at_the_size_first_draws_no_random_numbers():
    recipe = spec.read_recipe("fast")["objective"]
    with seeded_weights(3):
        looked_at = spec.build(recipe).state_dict()
    with seeded_weights(3):
        alone = spec._build(recipe, ("crystalmax",), "").state_dict()
    assert all(torch.equal(looked_at[name], alone[name]) for name in alone)


def test_the_page_on_security_names_tests_that_there_are():
    root = Path(__file__).parent
    page = (root.parent / "docs" / "security.md").read_text(encoding="utf-8")
    named = re.findall(r"`(?:(test_\w+\.py)(?:::)?)?(test_\w+)?`", page)
    assert len(named) > 25
    file = ""
    for where, name in named:
        file = where or file
        assert f"def {name}" in (root / file).read_text(encoding="utf-8"), (file, name)
