import csv
import errno
import io
import json
import os
import pickle
import re
import sys
import time
import unicodedata
import zipfile
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ase.build import bulk
from joblib import parallel_config
from pymatgen.core import Lattice, Molecule, Structure

from crystalmax.reading import sources
from crystalmax.reading.listing import notes, skipped
from crystalmax.reading.records import labelled
from crystalmax.reading.sources import read
from crystalmax.reading.tables import identifier_of, read_csv, read_labels, without_suffix
from crystalmax.storage.dataset import DatasetWriter

HEAD = """data_{name}
_cell_length_a {a}
_cell_length_b 5.6
_cell_length_c 5.6
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M '{group}'
{extra}loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
"""


def cif(*atoms, name="x", a="5.6", group="P 1", extra=""):
    rows = "".join(f"A{number} {atom}\n" for number, atom in enumerate(atoms))
    return HEAD.format(name=name, a=a, group=group, extra=extra) + rows


SALT = cif("Na 0 0 0 1", "Cl 0.5 0.5 0.5 1", group="F m -3 m")
CESIUM = cif("Cs 0 0 0 1", "Cl 0.5 0.5 0.5 0.75")
POSCAR = "salt\n1.0\n4 0 0\n0 4 0\n0 0 4\nNa Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
STRUCTURE = Structure(Lattice.cubic(4), ["Na", {"Cl": 0.5, "Br": 0.25}], [[0, 0, 0], [0.5, 0.5, 0.5]])
XYZ = '2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 pbc="T T T"\nNa 0 0 0\nCl 2 2 2\n'


def zipped(**entries):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name.replace("__", "."), content)
    return buffer.getvalue()


def parquet(frame):
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()


# A name for the file, its content, and what the line about it must say.
BROKEN = {
    "empty file": ("x.cif", "", "it is empty"),
    "no CIF at all": ("x.cif", "<html>not found</html>", "neither gemmi"),
    "binary content": ("x.cif", bytes(range(256)), "neither gemmi"),
    "no atoms": ("x.cif", "data_x\n_cell_length_a 5\n", "no data block has atoms"),
    "cut short": ("x.cif", SALT[:-12], "neither gemmi"),
    "coordinates missing": ("x.cif", cif("Na 0 0 0 1", "Cl ? . 0.5 1"), r"no coordinates for A1 \(\?\), A1 \(\.\)"),
    "coordinate is no number": ("x.cif", cif("Na 0 0 1/2 1"), r"no coordinates for A0 \(1/2\)"),
    "cell is missing": ("x.cif", SALT.replace("_cell_length_b 5.6\n", ""), "_cell_length_b is missing"),
    "decimal comma": ("x.cif", cif("Na 0 0 0 1", a="5,6"), "_cell_length_a is '5,6'"),
    "edge of zero": ("x.cif", cif("Na 0 0 0 1", a="0.0"), "_cell_length_a is '0.0'"),
    "impossible angles": ("x.cif", SALT.replace("alpha 90", "alpha 10").replace("beta 90", "beta 170"), "no volume"),
    "dummy species": ("x.cif", cif("Na 0 0 0 1", "Xx 0.5 0.5 0.5 1"), "'Xx' is not an element"),
    "too heavy an element": ("x.cif", cif("Og 0 0 0 1"), "atomic number 118"),
    "overlapping atoms": ("x.cif", cif("Na 0 0 0 1", "Cl 0.01 0 0 1"), "0.06 angstrom apart"),
    "overfull site": ("x.cif", cif("Na 0 0 0 0.9", "K 0 0 0 0.6"), r"sum to 1.5 \(Na 0.9 \+ K 0.6\)"),
    "occupancy is no number": ("x.cif", cif("Na 0 0 0 full"), "occupancy 'full' of Na is no number"),
    "occupancy not a number": ("x.cif", cif("Na 0 0 0 nan"), "occupancy 'nan' of Na is no number"),
    "negative occupancy": ("x.cif", cif("Na 0 0 0 -1"), "occupancy of Na is -1"),
    "only empty sites": ("x.cif", cif("Na 0 0 0 0"), "every atom has occupancy 0"),
    "huge cell": ("x.cif", cif("Na 0.01 0.02 0.03 1", "Cl .2 .3 .4 1", group="F m -3 m"), "288 sites, more than"),
    "POSCAR without elements": ("POSCAR", POSCAR.replace("Na Cl\n", ""), "does not name its elements"),
    "POSCAR cut short": ("x.vasp", POSCAR[:40], "cannot be read"),
    "POSCAR with tritium": ("POSCAR", POSCAR.replace("Na Cl\n", "Li T\n"), "'T' is not an element"),
    "XYZ with a dummy": ("x.xyz", XYZ.replace("Na", "Xx"), "'Xx' is not an element"),
    "empty JSON": ("x.json", "[]", "holds no structure"),
    "XYZ without frames": ("x.xyz", "", "it holds no structure"),
    "angle is missing": ("x.cif", SALT.replace("_cell_angle_beta 90\n", ""), "_cell_angle_beta is missing"),
    "invalid JSON": ("x.json", '{"lattice": ', "no valid JSON"),
    "JSON of something else": ("x.json", '{"a": 1}', "cannot be read"),
    "JSON of a molecule": ("x.json", json.dumps(Molecule(["H"], [[0, 0, 0]]).as_dict()), "cannot be read"),
    "JSON with a bad site": ("x.json", json.dumps([{"lattice": {}, "sites": [1]}]), "cannot be read"),
    "molecule": ("x.xyz", "1\n\nH 0 0 0\n", "not periodic"),
    "unknown format": ("x.doc", "hello", "cannot be read"),
    "table without structures": ("x.csv", "id,gap\na,1\n", "no column 'cif' among id, gap"),
    "table without rows": ("x.csv", "id,cif\n", "has no rows"),
    "empty table": ("x.csv", "", "cannot be read"),
    "name of a file as CIF": ("x.csv", "id,cif,gap\na,lab/a.cif,1\n", "the name of a file, 'lab/a.cif', not CIF text"),
    "row without structure": ("x.csv", "id,cif,gap\na,,1\n", "it is empty"),
    "corrupt Parquet": ("x.parquet", b"PAR1 and then nothing", "the table cannot be read"),
    "corrupt archive": ("x.zip", b"PK and then nothing", "no readable zip archive"),
    "archive without structures": ("x.zip", zipped(readme__txt="hello"), "the archive holds no structure"),
    "archive in an archive": ("x.zip", zipped(inner__zip=zipped(a__cif=SALT)), "archive within an archive"),
    "missing file": ("", "", "no such file or folder"),
}  # fmt: skip


def test_a_table_that_ends_half_way_is_no_shorter_table(tmp_path):
    path = tmp_path / "x.parquet"
    texts = [cif("Na 0 0 0 1", name=f"x{number}", a=f"{4 + number / 100}") for number in range(40)]
    pd.DataFrame({"cif": texts}).to_parquet(path, row_group_size=8)
    begin = pq.ParquetFile(path).metadata.row_group(3).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[begin : begin + 60] = bytes(60)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x.parquet: the table cannot be read \(.*\) after 24 rows"):
        list(read(path))


def test_an_error_of_arithmetic_is_that_of_one_entry():
    def cell(crystal):
        if crystal.n_sites == 8:
            raise OverflowError(34, "Numerical result out of range")
        return crystal

    first, second = read(SALT, CESIUM, cell=cell)
    assert "beyond what can be computed with" in str(first.refusal)
    assert second.refusal is None


def test_a_reader_that_overflows_refuses_one_entry(monkeypatch):
    def overflows(text, key, max_sites):
        return [1.0e308**2]

    monkeypatch.setattr(sources, "read_cif", overflows)
    assert "beyond what can be computed with" in str(next(read(SALT)).refusal)


def test_relative_paths_are_those_of_who_asks(tmp_path, monkeypatch):
    list(read(CESIUM, CESIUM, n_jobs=2))  # workers that stay are in the folder where they began
    (tmp_path / "salt.cif").write_text(SALT)
    monkeypatch.chdir(tmp_path)
    records = list(read("salt.cif", "salt.cif", n_jobs=2))
    assert [(record.source, record.refusal) for record in records] == [("salt.cif", None)] * 2


def test_links_change_no_names_and_lead_to_nothing_beside(tmp_path):
    source = tmp_path / "source"
    for folder in ("sub", "a", ".kept"):
        (source / folder).mkdir(parents=True)
    (source / "sub" / "salt.cif").write_text(SALT)
    (source / ".kept" / "kept.cif").write_text(CESIUM)
    (tmp_path / "beside.cif").write_text(CESIUM)
    (source / "a" / "link").symlink_to(source / "sub")
    (source / "a" / "up").symlink_to(tmp_path)
    (source / "shown").symlink_to(source / ".kept")
    assert [record.key for record in read(source)] == ["shown/kept", "sub/salt"]


def test_links_to_folders_are_followed_once(tmp_path):
    real, source = tmp_path / "real", tmp_path / "source"
    real.mkdir()
    source.mkdir()
    (real / "salt.cif").write_text(SALT)
    (source / "cesium.cif").write_text(CESIUM)
    (source / "more").symlink_to(real)
    (real / "back").symlink_to(source)
    assert [record.key for record in read(source)] == ["cesium", "more/salt"]


@pytest.mark.parametrize("name", BROKEN)
def test_broken_input_gets_a_line_and_spoils_nothing_else(name, tmp_path):
    file, content, said = BROKEN[name]
    path = tmp_path / (file or "absent.cif")
    if file:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "good.cif").write_text(CESIUM)
    before, broken, after = read(CESIUM, path, tmp_path / "good.cif", max_sites=200)
    for record in (before, after):
        assert record.refusal is None
        assert record.crystal.composition() == {55: 1.0, 17: 0.75}
    assert broken.crystal is None
    with pytest.raises(ValueError, match=said):
        raise broken.refusal
    assert broken.refusal.key == broken.key
    assert broken.refusal.remedy
    assert "\n" not in str(broken.refusal)
    assert broken.source.startswith(str(path))


def test_every_kind_of_file_gives_the_same_crystal(tmp_path):
    rocksalt = cif("Na 0 0 0 1", "Cl 0.5 0.5 0.5 1").replace("5.6", "4")
    plain = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    contents = {
        "a.cif": rocksalt,
        "b.CIF": rocksalt,
        "CONTCAR.2": POSCAR,
        "d.vasp": POSCAR,
        "e.json": json.dumps(plain.as_dict()),
        "f.xyz": XYZ,
    }
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    plain.to_ase_atoms().write(tmp_path / "g.res")
    records = [*read(tmp_path), *read(tmp_path / "g.res"), *read(plain), *read(plain.to_ase_atoms()), *read(rocksalt)]
    assert [record.key for record in records] == ["CONTCAR.2", "a", "b", "d", "e", "f", "g", "0", "0", "0"]
    for record in records:
        assert record.notes == ()
        np.testing.assert_allclose(record.crystal.lattice, 4 * np.eye(3), atol=1e-12)
        np.testing.assert_allclose(record.crystal.positions, [[0, 0, 0], [0.5] * 3], atol=1e-9)
        assert record.crystal.composition() == {11: 1.0, 17: 1.0}


@pytest.mark.parametrize("symmetry", ["LATT 4", "LATT 1", "LATT -1\nSYMM -X,-Y,Z", "latt -4"])
def test_a_shelx_file_with_symmetry_is_refused(tmp_path, symmetry):
    atoms = "SFAC Na Cl\nNa 1 0 0 0 1\nCl 2 0.5 0.5 0.5 1\nEND\n"
    (tmp_path / "x.res").write_text(f"TITL x\nCELL 0.71073 5.6 5.6 5.6 90 90 90\n{symmetry}\n{atoms}")
    (record,) = read(tmp_path / "x.res")
    assert "of a res file like this one ASE ignores symmetry" in record.refusal.reason


@pytest.mark.parametrize(("masses", "said"), [("", "guesses elements"), ("Masses\n\n1 22.99\n2 35.45\n\n", "")])
def test_types_of_lammps_are_no_elements(tmp_path, masses, said):
    edges = "".join(f"0.0 4.0 {axis}lo {axis}hi\n" for axis in "xyz")
    text = f"x\n\n2 atoms\n2 atom types\n\n{edges}\n{masses}Atoms # atomic\n\n1 1 0 0 0\n2 2 2 2 2\n"
    (tmp_path / "x.lammps-data").write_text(text)
    (record,) = read(tmp_path / "x.lammps-data")
    assert said in record.refusal.reason if said else record.crystal.composition() == {11: 1.0, 17: 1.0}


def test_folders_are_read_deeply_in_the_order_of_names(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("b/z.cif", "b/a.cif", "c.cif", "a.v2.cif", ".hidden/x.cif", "b/.x.cif"):
        (tmp_path / name).write_text(SALT)
    (tmp_path / "notes.txt").write_text("not a structure")
    (tmp_path / "d.zip").write_bytes(zipped(inside__cif=SALT))
    records = list(read(tmp_path))
    assert [record.key for record in records] == ["a.v2", "b/a", "b/z", "c", "inside"]
    assert records[0].source == str(tmp_path / "a.v2.cif")
    assert records[4].source == f"{tmp_path / 'd.zip'}!inside.cif"


@pytest.mark.parametrize("name", ["more.tar.gz", "one.cif.gz", "old.7z"])
def test_what_is_packed_otherwise_than_by_zip_has_a_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"packed")
    (tmp_path / "salt.cif").write_text(SALT)
    by_source = {Path(record.source).name: record for record in read(tmp_path)}
    assert by_source["salt.cif"].crystal is not None
    assert "unpack it" in by_source[name].refusal.remedy


def test_a_table_in_a_folder_is_no_structure_whatever_its_name(tmp_path):
    (tmp_path / "POSCAR_a").write_text(POSCAR)
    (tmp_path / "POSCAR_labels.csv").write_text("file,gap\nPOSCAR_a,1.5\n")
    (record,) = read(tmp_path, labels=tmp_path / "POSCAR_labels.csv")
    assert record.crystal.targets == {"gap": 1.5}


def test_a_folder_without_structures_says_so(tmp_path):
    (tmp_path / "readme.txt").write_text("hello")
    (record,) = read(tmp_path)
    assert "no file in this folder" in record.refusal.reason


def test_what_cannot_be_reached_in_a_folder_has_a_line(tmp_path, monkeypatch):
    for name in ("open", "closed", "listed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "salt.cif").write_text(SALT)
    (tmp_path / "open" / "gone.cif").symlink_to(tmp_path / "nowhere.cif")
    (tmp_path / "open" / "gone.zip").symlink_to(tmp_path / "nowhere.zip")
    os.mkfifo(tmp_path / "open" / "pipe.cif")
    scandir, stat = os.scandir, os.stat

    def refuse(path):  # root may look everywhere, so permissions would not tell
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "scandir", lambda path: (refuse if Path(path).name == "closed" else scandir)(path))
    in_listed = lambda path: Path(path).parent.name == "listed"  # noqa: E731
    monkeypatch.setattr(os, "stat", lambda path, **how: refuse(path) if in_listed(path) else stat(path, **how))
    found = {record.source: record.refusal and record.refusal.reason for record in read(tmp_path)}
    monkeypatch.undo()
    assert found.pop(f"{tmp_path}/open/salt.cif") is None
    assert found.pop(f"{tmp_path}/open/gone.cif") == "it cannot be opened (No such file or directory)"
    assert "No such file" in found.pop(f"{tmp_path}/open/gone.zip")
    assert found.pop(f"{tmp_path}/listed/salt.cif") == "it cannot be opened (Permission denied)"
    assert found == {f"{tmp_path}/closed": "this folder cannot be read (Permission denied)"}


def test_each_folder_is_looked_into_once(tmp_path, monkeypatch):
    for name in ("one/a.cif", "one/sub/b.cif", "two/a.cif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(SALT)
    scandir, looked_into = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda path: looked_into.append(Path(path).name) or scandir(path))
    assert [record.key for record in read(tmp_path / "one", [tmp_path / "two"])] == ["one/a", "sub/b", "two/a"]
    assert looked_into == ["one", "sub", "two"]


def test_a_generator_may_fill_one_folder_again_and_again(tmp_path):
    def one_by_one():
        for number in range(3):
            (tmp_path / f"{number}.cif").write_text(SALT)
            yield tmp_path
            (tmp_path / f"{number}.cif").unlink()

    assert [record.key for record in read(one_by_one())] == ["0", "1", "2"]


def test_archives_are_read_in_memory_and_never_written(tmp_path):
    path = tmp_path / "all.zip"
    path.write_bytes(zipped(**{"../../evil.cif": SALT, "/root.cif": CESIUM, "POSCAR": POSCAR, "readme.md": "x"}))
    records = list(read(path))
    assert [record.key for record in records] == ["../../evil", "/root", "POSCAR"]
    assert all(record.crystal for record in records)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["all.zip"]
    assert not (tmp_path.parent.parent / "evil.cif").exists()


def test_a_folder_in_an_archive_is_no_structure_whatever_its_name(tmp_path):
    (tmp_path / "x.zip").write_bytes(zipped(**{"POSCARs/": "", "POSCARs/a.vasp": POSCAR}))
    assert [(record.key, record.refusal) for record in read(tmp_path / "x.zip")] == [("POSCARs/a", None)]


def test_a_damaged_entry_spoils_no_other(tmp_path):
    content = bytearray(zipped(a__cif=SALT, b__cif=CESIUM))
    content[60] ^= 0xFF
    (tmp_path / "x.zip").write_bytes(content)
    damaged, good = read(tmp_path / "x.zip")
    assert "cannot be unpacked" in damaged.refusal.reason
    assert good.crystal.composition() == {55: 1.0, 17: 0.75}


def test_what_is_too_large_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 1000)
    (tmp_path / "bomb.zip").write_bytes(zipped(big__cif=" " * 10**6, small__cif=SALT))
    (tmp_path / "large.cif").write_text(SALT + " " * 2000)
    big, small, large = read(tmp_path)
    assert "larger than" in big.refusal.reason
    assert small.crystal.n_sites == 8
    assert "larger than" in large.refusal.reason


@pytest.mark.parametrize("form", ["csv", "parquet", "frame"])
def test_tables_give_keys_and_targets(form, tmp_path):
    frame = pd.DataFrame(
        {
            "Material_ID": ["007", "mp-2", "mp-3"],
            "cif": [SALT, CESIUM, "junk"],
            "gap": [5.0, np.nan, 1.0],
            "count": [1, 2, 3],
            "metal": [True, False, False],
            "comment": ["a", "b", "c"],
        }
    )
    table = frame
    if form == "csv":
        table = tmp_path / "t.csv"
        frame.to_csv(table, index=False)
    elif form == "parquet":
        table = tmp_path / "t.parquet"
        frame.to_parquet(table)
    first, second, third = read(table)
    assert [first.key, second.key, third.key] == ["007", "mp-2", "mp-3"]
    assert first.targets == first.crystal.targets == {"gap": 5.0, "count": 1.0, "metal": 1.0}
    assert np.isnan(second.targets["gap"])
    assert third.refusal is not None
    assert third.targets["gap"] == 1.0
    assert third.source.endswith("row 2")


def test_decimals_of_databases_are_numbers():
    (record,) = read(pd.DataFrame({"id": ["a"], "cif": [SALT], "gap": [Decimal("8.50")]}))
    assert record.targets == {"gap": 8.5}


def test_a_number_that_names_a_row_is_no_property():
    (record,) = read(pd.DataFrame({"id": [7], "cif": [SALT], "gap": [8.5]}))
    assert (record.key, record.targets) == ("7", {"gap": 8.5})


def test_of_names_for_identifiers_the_first_counts_then_the_first_column():
    assert identifier_of(["gap", "File", "ID", "id"]) == "ID"
    assert identifier_of(["gap", "filenames"]) is None


def test_rows_without_identifier_are_numbered(tmp_path):
    path = tmp_path / "mine.csv"
    pd.DataFrame({"gap": [1.0, 2.0], "cif": [SALT, SALT]}).to_csv(path, index=False)
    records = list(read(path))
    assert [record.key for record in records] == ["mine-0", "mine-1"]
    assert [record.targets for record in records] == [{"gap": 1.0}, {"gap": 2.0}]


def test_tables_are_utf_8_with_or_without_a_mark(tmp_path):
    frame = pd.DataFrame({"id": ["Süd", "b"], "cif": [SALT, SALT]})
    frame.to_csv(tmp_path / "bom.csv", index=False, encoding="utf-8-sig")
    assert [record.key for record in read(tmp_path / "bom.csv")] == ["Süd", "b"]
    frame.to_csv(tmp_path / "latin.csv", index=False, encoding="latin-1")
    (record,) = read(tmp_path / "latin.csv")
    assert "write it anew as CSV in UTF-8" in record.refusal.remedy


@pytest.mark.parametrize("column", ["file", "id", "anything"])
def test_labels_join_by_key_or_file_name(column, tmp_path):
    folder = tmp_path / "cifs"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.cif").write_text(SALT)
    (folder / "sub" / "b.cif").write_text(CESIUM)
    (folder / "two.cif").write_text(cif("Na 0 0 0 1", name="p") + cif("K 0 0 0 1", name="q"))
    (folder / "unlabelled.cif").write_text(SALT)
    labels = pd.DataFrame({column: ["a.cif", "b", "two", "ghost.cif"], "gap": [1.0, 2.0, 3.0, 4.0]})
    labels.to_csv(tmp_path / "labels.csv", index=False)
    for table in (tmp_path / "labels.csv", labels):
        records = {record.key: record for record in read(folder, labels=table)}
        gaps = {key: record.targets.get("gap") for key, record in records.items()}
        assert gaps == {"a": 1.0, "sub/b": 2.0, "two:p": 3.0, "two:q": 3.0, "unlabelled": None, "ghost.cif": 4.0}
        assert records["a"].crystal.targets == {"gap": 1.0}
        assert "labels but no structure" in records["ghost.cif"].refusal.reason


def test_a_structure_that_is_refused_keeps_its_label(tmp_path):
    (tmp_path / "bad.cif").write_text("junk")
    (record,) = read(tmp_path, labels=pd.DataFrame({"file": ["bad.cif"], "gap": [1.5]}))
    assert record.refusal.key == "bad"
    assert (record.crystal, record.targets) == (None, {"gap": 1.5})


def test_a_label_that_structures_of_one_file_share_is_told_of(tmp_path, caplog):
    (tmp_path / "run.xyz").write_text(XYZ * 3)
    (tmp_path / "one.xyz").write_text(XYZ)
    gaps = [record.targets["gap"] for record in read(tmp_path, labels=pd.DataFrame({"file": ["run", "one"], "gap": 1}))]
    assert gaps == [1, 1, 1, 1]
    remedy = "to label one of them, name it in the table, such as 'run:0'"
    assert caplog.messages == [f"{tmp_path / 'run.xyz'}: its 3 structures share the label of 'run'; {remedy}"]
    each = pd.DataFrame({"file": ["run:1"], "gap": 1})
    assert [record.targets for record in read(tmp_path / "run.xyz", labels=each)] == [{}, {"gap": 1}, {}]
    assert len(caplog.messages) == 1
    (tmp_path / "one.xyz").write_text(XYZ * 2)
    list(read(tmp_path, labels=pd.DataFrame({"file": ["run", "one"], "gap": 1})))
    assert "its 2 structures share the label of 'one', and so for 1 more labels; to label" in caplog.text
    assert len(list(read(*[tmp_path / "run.xyz"] * 2, labels=pd.DataFrame({"file": ["run:1"], "gap": 1})))) == 6
    assert caplog.messages[-1].endswith("'run:1'; give the file once, and each structure a name of its own")


def test_true_and_false_in_labels_are_one_and_zero(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("id,a,b,c,d\nx,True,TRUE,true,yes\ny,False,FALSE,false,no\nz,,,,\n")
    x, y, z = read_labels(table).values()
    assert (x, y) == (dict.fromkeys("abc", 1.0), dict.fromkeys("abc", 0.0))
    assert not np.isfinite([*z.values()]).any()


def test_rows_of_labels_without_a_name_are_passed_over(tmp_path):
    (tmp_path / "labels.csv").write_text("file,gap\na,1.5\n,\n,\n")
    assert read_labels(tmp_path / "labels.csv") == {"a": {"gap": 1.5}}


def test_words_for_nothing_are_names_like_others_and_no_values(tmp_path):
    (tmp_path / "labels.csv").write_text("file,gap\nNA,1.5,\nnull.cif,2.5,\nnan,n/a,\n,,\nNone,4,\n")
    labels = read_labels(tmp_path / "labels.csv")
    assert list(labels) == ["NA", "null.cif", "nan", "None"]
    np.testing.assert_array_equal([each["gap"] for each in labels.values()], [1.5, 2.5, np.nan, 4])


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are UTF-8 elsewhere")
def test_a_name_that_is_not_utf_8_can_be_written(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.cif")).write_text(SALT)
    (record,) = read(tmp_path)
    assert (record.key, record.source) == ("caf?", f"{tmp_path}/caf?.cif")


def test_numbers_as_names_keep_their_zeros_in_labels(tmp_path):
    (tmp_path / "007.cif").write_text(SALT)
    for header in ("name,gap", "cif,gap"):
        (tmp_path / "labels.csv").write_text(f"{header}\n007,1.5\nNA,2\n")
        record, of_none = read(tmp_path / "007.cif", labels=tmp_path / "labels.csv")
        assert (record.targets, of_none.key) == ({"gap": 1.5}, "NA")


def test_a_name_labelled_twice_is_an_error(tmp_path):
    labels = pd.DataFrame({"id": ["a", "a.cif"], "gap": [1.0, 2.0]})
    with pytest.raises(ValueError, match="labels in a data frame name 'a' twice, with 'gap' of 1 and 2; keep one"):
        list(read(SALT, labels=labels))
    (tmp_path / "labels.csv").write_text("file,gap\na,1\na,1\n")
    unknown = pd.DataFrame({"id": ["a", "a"], "hardness": [np.nan, np.nan], "gap": [1.0, 2.0]})
    with pytest.raises(ValueError, match="name 'a' twice, with 'gap' of 1 and 2; keep one"):
        read_labels(unknown)  # what both leave empty is no difference
    with pytest.raises(ValueError, match=r"labels.csv name 'a' twice; keep one"):
        read_labels(tmp_path / "labels.csv")


def test_labels_that_are_no_file_are_told_of(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.csv: there is no such file; give a table of"):
        read(SALT, labels=tmp_path / "absent.csv")
    with pytest.raises(FileNotFoundError, match=r": this is a folder; give a table of labels"):
        read(SALT, labels=tmp_path)


def test_accents_of_labels_and_of_files_may_be_composed_or_not(tmp_path):
    for form, other in (("NFC", "NFD"), ("NFD", "NFC")):
        (tmp_path / form).mkdir()
        (tmp_path / form / f"{unicodedata.normalize(form, 'Süd')}.cif").write_text(SALT)
        labels = pd.DataFrame({"file": [unicodedata.normalize(other, "Süd.cif")], "gap": [1.5]})
        assert [record.targets for record in read(tmp_path / form, labels=labels)] == [{"gap": 1.5}]


@pytest.mark.parametrize(
    "text",
    [
        "file;gap\na.cif;1,5\n",
        "file;gap\na.cif;1.5\n",
        "file\tgap\na.cif\t1.5\n",
        " file , gap\n a.cif ,1.5\n",
        'file,gap,"x;y;z"\na.cif,1.5,";;"\n',
        "file,gap,of site; cell\na.cif,1.5,2\n",
        "file,gap,\na.cif,1.5,\n",
        "file,gap\na.cif,1.5,\n",
        "\n\nfile,gap\na.cif,1.5\n",
        ",Unnamed: 0,file,gap\n0,0,a.cif,1.5\n",
        "Unnamed: 0,,file,gap\n0,0,a.cif,1.5\n",
    ],
)
def test_labels_are_read_as_spreadsheets_save_them(text, tmp_path):
    (tmp_path / "a.cif").write_text(SALT)
    (tmp_path / "labels.txt").write_text(text, encoding="utf-8-sig")
    (record,) = read(tmp_path / "a.cif", labels=tmp_path / "labels.txt")
    assert record.targets["gap"] == 1.5


def test_what_is_no_number_among_numbers_is_missing_and_told_of(tmp_path, caplog):
    (tmp_path / "labels.csv").write_text("file,gap,name,mass\na,1,x,1\nb,2.3(4),y,2\nc,,z,3\nd,4,w,4\n")
    with caplog.at_level("WARNING"):
        labels = read_labels(tmp_path / "labels.csv")
    assert [set(each) for each in labels.values()] == [{"gap", "mass"}] * 4
    np.testing.assert_array_equal([each["gap"] for each in labels.values()], [1, np.nan, np.nan, 4])
    assert caplog.messages == [
        f"{tmp_path / 'labels.csv'}: 1 of 3 values of 'gap' are no numbers, such as '2.3(4)', and count as missing"
    ]


def test_a_point_that_may_part_thousands_is_no_decimal_point_beside_decimal_commas(tmp_path, caplog):
    values = ["1,5", "1.500", "-12.345", "2.5", "0.500", "12", "1.500,5", "1.5001"]
    (tmp_path / "labels.csv").write_text("\n".join(["file;gap", *(f"{n};{value}" for n, value in enumerate(values))]))
    found = [each["gap"] for each in read_labels(tmp_path / "labels.csv").values()]
    np.testing.assert_array_equal(found, [1.5, np.nan, np.nan, 2.5, 0.5, 12, np.nan, 1.5001])
    assert "3 of 8 values of 'gap' are no numbers, such as '1.500', and count as missing" in caplog.text
    (tmp_path / "labels.csv").write_text("file;gap\na;1.500\nb;<0.1\nc;2.25\n")  # no comma tells what points are
    np.testing.assert_array_equal(
        [each["gap"] for each in read_labels(tmp_path / "labels.csv").values()], [1.5, np.nan, 2.25]
    )
    (tmp_path / "labels.csv").write_text("file;cold;n\na;1.016;2,5\nb;950;<0,1\nc;870;x\n")  # that of another does
    found = [each["cold"] for each in read_labels(tmp_path / "labels.csv").values()]
    np.testing.assert_array_equal(found, [np.nan, 950, 870])
    assert "1 of 3 values of 'cold' are no numbers, such as '1.016', and count as missing" in caplog.text
    (tmp_path / "labels.csv").write_text("file;hot;group;n\na;1.074;225;1\nb;850;;2\nc;950;194;3\n")  # whole numbers do
    labels = read_labels(tmp_path / "labels.csv")
    np.testing.assert_array_equal([each["hot"] for each in labels.values()], [np.nan, 850, 950])
    np.testing.assert_array_equal([each["group"] for each in labels.values()], [225, np.nan, 194])
    assert "1 of 3 values of 'hot' are no numbers, such as '1.074', and count as missing" in caplog.text
    for rows in ("a;1.074;1.5\nb;850;", "a;1.074;1\nb;85;2", "a;0.074;1\nb;850;2", "a;1.074;225\nb;2.5;"):
        (tmp_path / "labels.csv").write_text(f"file;hot;n\n{rows}\n")  # points elsewhere, or small numbers, do not
        assert not np.isnan(read_labels(tmp_path / "labels.csv")["a"]["hot"])
    for mark in ",\t":
        (tmp_path / "labels.csv").write_text(f"file{mark}hot\na{mark}1.074\nb{mark}850\n")
        assert read_labels(tmp_path / "labels.csv")["a"] == {"hot": 1.074}  # nor do other separators
    (tmp_path / "labels.csv").write_text("file;n;doi;is;none\na;1.230;10.1/1,2;True;\nb;2.5;1,2-1,4;False;\n")
    assert read_labels(tmp_path / "labels.csv")["a"].keys() == {"n", "is", "none"}  # other commas do not
    (tmp_path / "labels.csv").write_text("file;n;m;is;none\na;1.230;1,2(3);True;\nb;2.5;1,5e-3;False;\n")
    assert read_labels(tmp_path / "labels.csv")["b"].keys() == {"is", "none"}
    (tmp_path / "labels.csv").write_text(f"file;n;toc\na;1.5;{'.' * 10**5} 7\n")
    began = time.process_time()
    assert read_labels(tmp_path / "labels.csv") == {"a": {"n": 1.5}}  # dots are gone through once
    assert time.process_time() - began < 5


def test_a_property_that_stands_where_names_are_looked_for_is_told_of(tmp_path):
    (tmp_path / "labels.csv").write_text("gap,Name\n1.5,a\n2.5,b\n")
    with pytest.raises(ValueError, match="'gap' is taken for the names of structures; call that of the names 'key'"):
        read_labels(tmp_path / "labels.csv", "gap")
    (tmp_path / "labels.csv").write_text("gap,key\n1.5,a\n2.5,b\n")
    assert read_labels(tmp_path / "labels.csv", "gap") == {"a": {"gap": 1.5}, "b": {"gap": 2.5}}
    assert read_labels(pd.DataFrame({"": ["a"], "gap": [1.5]})) == {"a": {"gap": 1.5}}


def test_a_column_that_is_mostly_text_is_told_of_if_it_holds_numbers(tmp_path, caplog):
    rows = ["a,n.d.,3.2 eV,x,1", "b,1.5,50%,never 2,", "c,n.d.,,,-"]
    (tmp_path / "labels.csv").write_text("\n".join(["file,gap,energy,comment,half", *rows]))
    with caplog.at_level("WARNING"):
        assert read_labels(tmp_path / "labels.csv") == {"a": {}, "b": {}, "c": {}}
    assert [message.split(", and")[0] for message in caplog.messages] == [
        f"{tmp_path / 'labels.csv'}: 2 of 3 values of 'gap' are no numbers, such as 'n.d.'",
        f"{tmp_path / 'labels.csv'}: 2 of 2 values of 'energy' are no numbers, such as '3.2 eV'",
        f"{tmp_path / 'labels.csv'}: 1 of 2 values of 'half' are no numbers, such as '-'",
    ]
    assert "the column counts as text" in caplog.text


def test_of_a_property_that_is_wanted_alone_is_told_what_is_no_number(tmp_path, caplog):
    """Whoever fits one property was told of dates, notes and units in all other columns."""
    rows = ["id,gap,when,mass", "a,<1,2024-01-05,1 kg", "b,2,2024-01-06,2 kg", "c,3,2024-01-07,3 kg"]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    (tmp_path / "table.csv").write_text(
        "\n".join(f'{row},"{cif}"' for row, cif in zip(rows, ["cif", SALT, SALT, SALT], strict=True))
    )
    told = "1 of 3 values of 'gap' are no numbers, such as '<1', and count as missing"
    for how in ({"labels": tmp_path / "labels.csv"}, {}):
        source = SALT if how else tmp_path / "table.csv"
        for target, n_told in (("gap", 1), ("volume", 0), ("", 3)):
            caplog.clear()
            list(read(source, target=target, **how))
            assert len(caplog.messages) == n_told
            assert sum(told in message for message in caplog.messages) == min(n_told, 1)


def test_infinity_is_missing_and_told_of(tmp_path, caplog):
    rows = ["file,gap,n,mass", "a,1.5,1,1", "b,-inf,2,2", "c,1e400,3,3", "d,2,4,-inf", "e,3,5,5"]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    with caplog.at_level("WARNING"):
        labels = read_labels(tmp_path / "labels.csv")
    np.testing.assert_array_equal([each["gap"] for each in labels.values()], [1.5, np.nan, np.nan, 2, 3])
    assert caplog.messages == [
        f"{tmp_path / 'labels.csv'}: {count} of 5 values of {name!r} are no numbers, such as '-inf', and count as"
        " missing"
        for count, name in ((2, "gap"), (1, "mass"))
    ]


def test_a_typeset_minus_and_spaces_that_do_not_break_are_read(tmp_path):
    for minus in "\u2212\u2013":  # a dash stands for one, too
        (tmp_path / "labels.csv").write_text(f"file,energy\na,{minus}1.5\nb,\u00a02\n", encoding="utf-8")
        assert read_labels(tmp_path / "labels.csv") == {"a": {"energy": -1.5}, "b": {"energy": 2.0}}


@pytest.mark.parametrize("content", [b"", b"file,gap\na,1,5\n", b"\xff\xfef\x00i\x00", b"file,gap\na,1\nb,2,3,4\n"])
def test_labels_that_cannot_be_read_are_named(content, tmp_path):
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"the labels in .*labels\.csv cannot be read .* CSV in UTF-8"):
        read_labels(tmp_path / "labels.csv")


def test_a_separator_is_no_comma_of_names_and_numbers(tmp_path):
    for separator in ";\t":
        (tmp_path / "labels.csv").write_text(f"file{separator}band gap, eV\nLiF.cif{separator}7,8\n")
        assert list(read_csv(tmp_path / "labels.csv")) == ["file", "band gap, eV"]
        (tmp_path / "labels.csv").write_text(f"file{separator}band gap, by PBE, eV\nLiF.cif{separator}7,8\n")
        assert list(read_csv(tmp_path / "labels.csv")) == ["file", "band gap, by PBE, eV"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_header_alone_says_how_columns_are_parted(separator, tmp_path):
    (tmp_path / "labels.csv").write_text(f"file{separator}gap\n")
    assert list(read_csv(tmp_path / "labels.csv")) == ["file", "gap"]


def test_rows_longer_than_the_header_are_told_of_in_our_words(tmp_path):
    (tmp_path / "labels.csv").write_text("file,gap\na,1,5\n")
    with pytest.raises(ValueError, match="rows have more cells than the header; a comma within a cell needs quotes"):
        read_labels(tmp_path / "labels.csv")


def test_a_comment_is_not_taken_for_the_names_of_the_columns(tmp_path):
    for first in ("# measured in May", "sep=;"):
        (tmp_path / "labels.csv").write_text(f"{first}\nfile;gap\na;1\n")
        with pytest.raises(ValueError, match=f"its first line is '{first}'; expected the names of the columns"):
            read_labels(tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_text("#file,gap\na,1\n")
    assert list(read_csv(tmp_path / "labels.csv")) == ["#file", "gap"]
    (tmp_path / "labels.csv").write_text("file\na\n")
    assert list(read_csv(tmp_path / "labels.csv")) == ["file"]


def test_two_columns_of_one_name_are_an_error(tmp_path):
    for header in ("file,gap,gap", 'file,gap,"gap "', "file,file,gap", "file;gap;gap", "file,NA,NA"):
        (tmp_path / "labels.csv").write_text(f"{header}\na,1,5\n")
        twice = next(name for name in ("file", "gap", "NA") if header.count(name) == 2)
        with pytest.raises(ValueError, match=f"two columns are called '{twice}'; rename or remove one of them"):
            read_labels(tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_text("file,gap,,, , , \na,1,,,,,\n")  # as spreadsheets save what was cleared
    assert read_labels(tmp_path / "labels.csv")["a"]["gap"] == 1


def test_an_index_with_a_name_is_a_column_as_in_parquet(tmp_path):
    labels = pd.DataFrame({"compound": ["a", "b"], "gap": [1.0, 2.0]}).set_index("compound")
    expected = {"a": {"gap": 1.0}, "b": {"gap": 2.0}}
    assert read_labels(labels) == expected
    assert read_labels(labels.reset_index().set_index("compound", drop=False)) == expected
    assert read_labels(labels.reset_index().set_axis([7, 5])) == expected
    named = labels.rename_axis("file")
    named.to_parquet(tmp_path / "labels.parquet")
    assert read_labels(named) == read_labels(tmp_path / "labels.parquet") == expected
    (record,) = read(pd.DataFrame({"cif": [SALT]}, index=pd.Index(["salt"], name="id")))
    assert record.key == "salt"


def test_the_index_that_pandas_writes_to_parquet_is_no_property(tmp_path):
    frame = pd.DataFrame({"id": list("abcd"), "cif": SALT, "gap": [1.0, 2.0, 3.0, 4.0]})
    frame[frame.gap != 3.0].to_parquet(tmp_path / "salts.parquet")  # rows that were chosen have kept their numbers
    assert pq.read_schema(tmp_path / "salts.parquet").names[-1] == "__index_level_0__"
    assert [record.targets for record in read(tmp_path / "salts.parquet")] == [{"gap": gap} for gap in (1.0, 2.0, 4.0)]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_index_that_pandas_writes_is_neither_names_nor_a_property(separator, tmp_path):
    frame = pd.DataFrame({"name": ["007", "b"], "gap": [3.5, 2.0]})
    decimal = "," if separator == ";" else "."
    frame.to_csv(tmp_path / "labels.csv", sep=separator, decimal=decimal)
    assert read_labels(tmp_path / "labels.csv") == {"007": {"gap": 3.5}, "b": {"gap": 2.0}}
    frame.assign(cif=SALT).to_csv(tmp_path / "crystals.csv")
    assert [record.targets for record in read(tmp_path / "crystals.csv")] == [{"gap": 3.5}, {"gap": 2.0}]
    frame[["gap", "name"]].rename(columns={"name": "id"}).to_csv(tmp_path / "last.csv")
    assert read_labels(tmp_path / "last.csv") == {"007": {"gap": 3.5}, "b": {"gap": 2.0}}


def test_a_first_column_without_a_heading_holds_names_unless_it_is_an_index(tmp_path):
    frame = pd.DataFrame({"gap": [1.5, 2.5], "spin": [0, 1]}, index=["a", "b"])
    frame.to_csv(tmp_path / "texts.csv")
    assert read_labels(tmp_path / "texts.csv") == {"a": {"gap": 1.5, "spin": 0.0}, "b": {"gap": 2.5, "spin": 1.0}}
    frame.set_axis([12, 7]).to_csv(tmp_path / "codes.csv")
    assert [*read_labels(tmp_path / "codes.csv")] == ["12", "7"]
    # Decimals are no names, so the files are called 0.cif and 1.cif.
    frame.reset_index(drop=True).to_csv(tmp_path / "counted.csv")
    assert read_labels(tmp_path / "counted.csv")["1"] == {"gap": 2.5, "spin": 1.0}


def test_objects_beside_labels_are_neither_names_nor_numbers():
    objects = {"structure": [None, Structure(Lattice.cubic(3.0), ["Po"], [[0, 0, 0]])], "sites": [[], [1]]}
    labels = pd.DataFrame({**objects, "file": ["a.cif", "b.cif"], "gap": [1.0, 2.0]})
    assert read_labels(labels) == {"a.cif": {"gap": 1.0}, "b.cif": {"gap": 2.0}}


def test_a_parquet_table_with_two_columns_of_one_name_is_refused(tmp_path):
    twice = pa.table([["a"], [SALT], [1.0], [2.0]], names=["id", "cif", "gap", "gap"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    (refusal,) = read(tmp_path / "twice.parquet")
    assert "two columns are called 'gap'; rename or remove one of them" in str(refusal.refusal)


def test_that_text_is_no_property_is_told_where_one_is_missing():
    table = pd.DataFrame({"cif": [SALT, CESIUM], "gap": ["1.5", "2.5"], "mass": [1.0, 2.0]})
    with pytest.raises(ValueError, match="the properties are: mass; a column of text is none, also where it holds num"):
        labelled(read(table), "gap")


def test_long_names_match_their_labels(tmp_path):
    names = ["Zn" * 149 + end for end in ("", "aa", "aaaa", "aaaa.cif")]
    table = pd.DataFrame({"id": names[:3], "cif": SALT})
    labels = pd.DataFrame({"id": names[1:], "gap": [1.0, 2.0, 3.0]})
    assert [record.targets for record in read(table, labels=labels[:2])] == [{}, {"gap": 1.0}, {"gap": 2.0}]
    twins = pd.DataFrame({"id": [f"{names[1]}{end}" for end in "bc"], "gap": [1.0, 2.0]})
    with pytest.raises(ValueError, match="and another label begin with the same 300 letters; shorten names"):
        list(read(table, labels=twins))


def test_labels_name_tables_and_poscars_with_or_without_their_ending(tmp_path):
    (tmp_path / "POSCAR_a.vasp").write_text(POSCAR)
    labels = pd.DataFrame({"file": ["POSCAR_a.vasp", "b.cif"], "gap": [1.0, 2.0]})
    table = pd.DataFrame({"file": ["b.cif"], "cif": [SALT]})
    assert [record.targets for record in read(tmp_path, table, labels=labels)] == [{"gap": 1.0}, {"gap": 2.0}]


@pytest.mark.parametrize("name", ["salt.xsf", "salt", "sub/salt.xsf", "sub/salt"])
def test_labels_name_files_of_formats_that_ase_knows_with_or_without_their_ending(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    for file in ("salt", "other"):
        bulk("NaCl", "rocksalt", a=5.6).write(f"sub/{file}.xsf")
    records = read("sub/salt.xsf", "sub/other.xsf", labels=pd.DataFrame({"file": [name], "gap": [8.5]}))
    assert [record.targets for record in records] == [{"gap": 8.5}, {}]


def test_a_path_is_of_the_file_and_not_of_a_row_with_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.cif").write_text(SALT)
    pd.DataFrame({"id": ["a"], "cif": [SALT]}).to_csv("table.csv", index=False)
    records = read("table.csv", "a.cif", labels=pd.DataFrame({"path": ["./a.cif"], "gap": [8.5]}))
    assert [record.targets for record in records] == [{}, {"gap": 8.5}]


def test_labels_may_leave_out_the_ending_of_every_format():
    assert {without_suffix(f"a{case(ending)}") for ending in sources.FORMATS for case in (str, str.upper)} == {"a"}


def test_a_label_that_fits_two_files_is_an_error(tmp_path):
    for folder, content in (("A", SALT), ("B", CESIUM)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.cif").write_text(content)
    with pytest.raises(
        ValueError, match=r"label of 'x.cif' fits .*A/x\.cif and .*B/x\.cif; label files .* as '.*B/x\.cif'"
    ):
        list(read(tmp_path, labels=pd.DataFrame({"file": ["x.cif"], "gap": [1.0]})))
    named = pd.DataFrame({"file": ["A/x.cif", "B/x.cif"], "gap": [1.0, 2.0]})
    assert [record.targets["gap"] for record in read(tmp_path, labels=named)] == [1.0, 2.0]


@pytest.mark.parametrize("how", ["relative", "dotted", "absolute"])
def test_labels_may_name_files_by_their_paths(how, tmp_path, monkeypatch):
    for folder, content in (("one", SALT), ("two", CESIUM)):
        (tmp_path / folder / "sub").mkdir(parents=True)
        (tmp_path / folder / "sub" / "x.cif").write_text(content)
    (tmp_path / "run.cif").write_text(cif("Na 0 0 0 1", name="p") + cif("K 0 0 0 1", name="q"))
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.writestr("y.cif", SALT)
    monkeypatch.chdir(tmp_path)
    before = {"relative": "", "dotted": "./", "absolute": f"{tmp_path}/"}[how]
    names = ["one/sub/x.cif", "two/sub/x.cif", "run:q", "packed.zip!y.cif", "table.csv"]
    labels = pd.DataFrame({"path": [before + name for name in names], "gap": [1.0, 2.0, 3.0, 4.0, 5.0]})
    pd.DataFrame({"id": ["z"], "cif": [SALT]}).to_csv("table.csv", index=False)
    for root in (Path(), tmp_path):
        records = read(*(root / name for name in ("one", "two", "run.cif", "packed.zip", "table.csv")), labels=labels)
        gaps = [record.targets.get("gap") for record in records if record.crystal]
        assert gaps == [1.0, 2.0, None, 3.0, 4.0, None]


def test_a_path_that_fits_two_files_is_an_error(tmp_path, monkeypatch):
    for folder in ("cifs", "all/cifs"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "x.cif").write_text(SALT)
    monkeypatch.chdir(tmp_path)
    labels = pd.DataFrame({"path": ["cifs/x.cif"], "gap": [1.0]})
    with pytest.raises(ValueError, match=r"label of 'cifs/x.cif' fits cifs/x\.cif and all/cifs/x\.cif"):
        list(read("cifs", "all", labels=labels))


@pytest.mark.parametrize("way", ["folders", "absolute", "paths", "archives", "inside", "list", "in lists"])
def test_files_of_one_name_in_several_folders_say_which_they_are_of(way, tmp_path, monkeypatch):
    """Predictions did not say which of `x` and `x#2` was of a/x.cif."""
    monkeypatch.chdir(tmp_path)
    files = {"a": ["x.cif", "only.cif", "POSCAR"], "b": ["x.vasp", "x.cif", "sub/x.cif", "POSCAR"], "deep/b": ["x.cif"]}
    names = [f"{folder}/{name}" for folder, each in files.items() for name in each]
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text({".cif": SALT}.get(Path(name).suffix, POSCAR))
    for folder, each in files.items():
        with zipfile.ZipFile(f"{folder}.zip", "w") as archive:
            for name in each:
                archive.write(f"{folder}/{name}", name)
    given = {
        "folders": files,
        "absolute": [tmp_path / folder for folder in files],
        "paths": [name for name in names if "sub" not in name],
        "archives": [f"{folder}.zip" for folder in files],
        "inside": ["all"],
        "list": [[*files]],
        "in lists": [["a", ("b.zip",)], "deep/b"],
    }[way]
    if way == "inside":
        for folder in files:
            Path("all", folder).parent.mkdir(parents=True, exist_ok=True)
            Path(f"{folder}.zip").rename(Path("all", f"{folder}.zip"))
    top = "all" if way == "inside" else tmp_path.name
    keys = {"a/POSCAR", "b/POSCAR", "a/x", f"{top}/b/x.cif", f"{top}/b/x.vasp", "only", "deep/b/x"}
    keys |= {"sub/x"} if way != "paths" else set()
    assert {record.key for record in read(*given)} == keys
    gaps = {"a/x": 1.0, "deep/b/x.cif": 2.0, "a/only": 3.0, "b\\POSCAR": 4.0, f"{top}\\b\\x.cif": 5.0}
    records = read(*given, labels=pd.DataFrame({"file": gaps.keys(), "gap": gaps.values()}))
    found = {record.key: record.targets["gap"] for record in records if record.targets}
    assert found == {"a/x": 1.0, "deep/b/x": 2.0, "only": 3.0, "b/POSCAR": 4.0, f"{top}/b/x.cif": 5.0}
    for name in ("x", "x.cif", "POSCAR", "b/x.cif"):
        with pytest.raises(ValueError, match=f"the label of '{name}' fits .* and .*; label files of one name with"):
            list(read(*given, labels=pd.DataFrame({"file": [name], "gap": [1.0]})))


def test_a_label_that_differs_from_a_file_by_case_says_so(tmp_path):
    for name in ("NaCl.cif", "CsCl.cif"):
        (tmp_path / name).write_text(SALT)
    names = ["NACL.CIF", "CSBr", "CsCl.cif", "cscl", "CsCl.vasp"]
    *_, upper, other, lower, poscar = read(tmp_path, labels=pd.DataFrame({"file": names, "gap": 1.0}))
    assert upper.refusal.remedy == "add the structure, or write 'NaCl', from which it differs by case only"
    assert lower.refusal.remedy == "add the structure, or write 'CsCl', from which it differs by case only"
    assert {each.refusal.remedy for each in (other, poscar)} == {"add the structure, or correct its name"}


@pytest.mark.parametrize("way", ["folder", "archive", "paths", "names"])
def test_files_that_only_their_endings_tell_apart_keep_these(way, tmp_path, monkeypatch):
    """Predictions did not say which was `x` and which `x#2`, and a label of one was refused as one of both."""
    monkeypatch.chdir(tmp_path)
    files = {"x.cif": SALT, "x.vasp": POSCAR, "y.cif": CESIUM, "run.cif": CESIUM, "run.xyz": XYZ * 2}
    Path("all").mkdir()
    for name, content in files.items():
        Path("all", name).write_text(content)
    with zipfile.ZipFile("all.zip", "w") as archive:
        for name in files:
            archive.write(f"all/{name}", name)
    paths = [Path("all", name) for name in sorted(files)]
    given = {"folder": ["all"], "archive": ["all.zip"], "paths": paths, "names": [*map(str, paths)]}[way]
    keys = ["run.cif", "run.xyz:0", "run.xyz:1", "x.cif", "x.vasp", "y"]
    assert [record.key for record in read(*given)] == keys

    def gaps(**labels):
        table = pd.DataFrame({"file": labels.keys(), "gap": labels.values()})
        records = {record.key: record for record in read(*given, labels=table)}
        return {key: record.targets.get("gap") for key, record in records.items() if record.targets or key not in keys}

    alone = {"x.vasp": 2.0}
    assert gaps(**alone) == alone
    both = {"x.vasp": 2.0, "x.cif": 1.0, "run.xyz": 3.0, "y.vasp": 4.0}
    assert gaps(**both) == {"x.vasp": 2.0, "x.cif": 1.0, "run.xyz:0": 3.0, "run.xyz:1": 3.0, "y": 4.0}
    assert gaps(**{"y.cif": 1.0, "y.vasp": 2.0}) == {"y": 1.0, "y.vasp": 2.0}  # of which the latter has no structure
    with pytest.raises(ValueError, match=r"label of 'x' fits .*x\.cif and .*x\.vasp; .* as 'all.*x\.vasp'"):
        gaps(x=1.0)


def test_a_label_with_an_ending_and_one_without_are_of_one_structure():
    for names in (["x", "x.cif"], ["x.cif", "x.vasp", "x"], ["x.cif", "x.vasp", "x.cif"]):
        with pytest.raises(ValueError, match="name 'x' twice"):
            read_labels(pd.DataFrame({"file": names, "gap": 1.0}))


def test_a_label_of_a_deeper_file_goes_before_one_of_its_bare_name(tmp_path):
    with DatasetWriter(tmp_path / "data", provenance={}) as writer:
        for key in ("sub/x", "x"):
            writer.add(replace(next(read(SALT)).crystal, key=key))
    labels = pd.DataFrame({"file": ["sub/x.cif", "x"], "gap": [1.0, 2.0]})
    assert [record.targets["gap"] for record in read(tmp_path / "data", labels=labels)] == [1.0, 2.0]


def test_a_file_called_poscar_with_the_ending_of_another_format_is_read_as_that(tmp_path):
    """As programs save what they were given as a POSCAR; it was refused for its number of scaling factors."""
    for name, content in (("POSCAR.cif", SALT), ("CONTCAR_1.xyz", XYZ), ("POSCAR.vasp", POSCAR), ("POSCAR.2", POSCAR)):
        (tmp_path / name).write_text(content)
    labels = pd.DataFrame({"file": ["POSCAR.cif", "CONTCAR_1"], "gap": [1.0, 2.0]})
    found = {record.key: record.targets for record in read(tmp_path, labels=labels) if record.crystal}
    assert found == {"POSCAR.cif": {"gap": 1.0}, "CONTCAR_1.xyz": {"gap": 2.0}, "POSCAR.vasp": {}, "POSCAR.2": {}}


def test_cif_text_with_the_line_ends_of_old_macs_is_no_path():
    (record,) = read(SALT.replace("\n", "\r"))
    assert record.crystal.composition() == next(read(SALT)).crystal.composition()


def test_no_name_at_all_is_not_the_folder_that_we_are_in(tmp_path, monkeypatch):
    (tmp_path / "a.cif").write_text(SALT)
    monkeypatch.chdir(tmp_path)
    assert [record.crystal is None for record in read(["a.cif", ""])] == [False, True]


def test_objects_keep_their_place_and_bad_ones_a_row():
    records = list(read([STRUCTURE, None, bulk("Cu"), 3, CESIUM], SALT))
    assert [record.key for record in records] == ["0.0", "0.1", "0.2", "0.3", "0.4", "1"]
    assert [record.crystal is None for record in records] == [False, True, False, True, False, False]
    assert "a NoneType is no structure" in records[1].refusal.reason
    assert records[0].crystal.composition() == pytest.approx({11: 1.0, 17: 0.5, 35: 0.25})


def test_what_else_pymatgen_makes_is_refused_by_its_name():
    records = list(read([STRUCTURE, STRUCTURE.composition, STRUCTURE.lattice, STRUCTURE[0]]))
    assert records[0].crystal is not None
    for record, name in zip(records[1:], ("Composition", "Lattice", "PeriodicSite"), strict=True):
        assert f"a {name} is not periodic in three directions; give the Structure" in str(record.refusal)


def test_dictionaries_of_pymatgen_are_structures():
    plain = STRUCTURE.as_dict()
    expected = next(read(STRUCTURE)).crystal
    for one in (
        plain,
        MappingProxyType(plain),
        STRUCTURE.to_json(),
        json.dumps(plain, indent=2),
        f" {json.dumps(plain)}",
    ):
        (record,) = read(one)
        assert record.key == "0"
        np.testing.assert_array_equal(record.crystal.positions, expected.positions)
        assert record.crystal.kinds == expected.kinds
    assert [record.key for record in read([plain, SALT, STRUCTURE.to_json()])] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("one", "words"),
    [
        ({"lattice": 3, "sites": []}, "cannot be read .*; give pymatgen structures, as Structure.as_dict writes them"),
        ({"a": STRUCTURE.as_dict()}, r"a dict is no structure; .* as_dict\(\)"),
        ('{"sites": [', "no valid JSON"),
        ("folder/x.cif", "^x.cif: there is no such file or folder as folder/x.cif; correct the path"),
    ],
)
def test_dictionaries_that_are_no_structures_say_so(one, words):
    (record,) = read(one)
    assert re.search(words, str(record.refusal))


def test_a_dictionary_imports_nothing_that_it_names(tmp_path, monkeypatch):
    (tmp_path / "evil_twin.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    plain = STRUCTURE.as_dict()
    evil = {"@module": "evil_twin", "@class": "Evil"}
    sites = [{**site, "properties": {"evil": evil}, **evil} for site in plain["sites"]]
    (record,) = read({**plain, **evil, "sites": sites, "properties": evil, "lattice": {**plain["lattice"], **evil}})
    assert record.crystal is not None
    assert "evil_twin" not in sys.modules


def test_crystals_keep_key_and_targets():
    (first,) = read(CESIUM)
    crystal = first.crystal.__class__(**{**first.crystal.__dict__, "key": "mine", "targets": {"gap": 2.0}})
    (record,) = read([crystal])
    assert record.key == record.crystal.key == "mine"
    assert record.targets == record.crystal.targets == {"gap": 2.0}


def test_a_data_set_is_read_as_it_was_stored(tmp_path):
    (salt,), (cesium,) = read(SALT), read(CESIUM)
    crystals = [salt.renamed("salt").crystal, replace(cesium.renamed("cesium").crystal, targets={"gap": 2.0})]
    with DatasetWriter(tmp_path / "data", provenance={}) as writer:
        for crystal in crystals:
            writer.add(crystal)
    (tmp_path / "labels.csv").write_text("key,gap,mass\nsalt,8.5,58\n")
    first, second = read(tmp_path / "data", labels=tmp_path / "labels.csv")
    assert [first.key, second.key] == ["salt", "cesium"]
    assert first.crystal.targets == first.targets == {"gap": 8.5, "mass": 58.0}
    assert second.crystal.targets == second.targets == {"gap": 2.0}
    assert second.source == f"{tmp_path / 'data'} row 1"
    np.testing.assert_allclose(second.crystal.positions, crystals[1].positions, atol=1e-7)
    (large, small) = read(str(tmp_path / "data"), max_sites=4)
    assert "8 sites, more than the 4 allowed" in str(large.refusal)
    assert small.crystal is not None


def test_a_folder_of_files_beside_a_manifest_of_something_else_is_read_as_ever(tmp_path):
    (tmp_path / "a.cif").write_text(SALT)
    (tmp_path / "manifest.json").write_text("{}")
    assert [record.key for record in read(tmp_path) if record.crystal] == ["a"]


def test_a_data_set_within_a_folder_has_a_line(tmp_path):
    with DatasetWriter(tmp_path / "sub" / "data", provenance={}) as writer:
        writer.add(next(read(SALT)).crystal)
    for source in (tmp_path, tmp_path / "sub" / "data" / "manifest.json"):
        (record,) = read(source)
        assert "it is of a data set; give the folder of the data set, by its name" in str(record.refusal)


def test_a_data_set_that_lacks_a_file_is_not_taken_for_a_folder_of_structures(tmp_path):
    with DatasetWriter(tmp_path / "data", provenance={}) as writer:
        writer.add(next(read(SALT)).crystal)
    (tmp_path / "data" / "lattice.f8").unlink()
    with pytest.raises(ValueError, match=r"lattice\.f8 is missing; ingest the source again"):
        list(read(tmp_path / "data"))


def test_keys_are_unique_and_the_same_every_time(tmp_path):
    for folder in ("one", "two", "three"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.cif").write_text(SALT)
    (tmp_path / "one" / "a#2.cif").write_text(SALT)
    (tmp_path / "two" / "bad.cif").write_text("")
    (tmp_path / "three" / "bad.cif").write_text("")
    folders = [tmp_path / folder for folder in ("one", "two", "three")]
    records = list(read(*folders))
    keys = [record.key for record in records]
    assert keys == ["a#2", "one/a", "two/a", "two/bad", "three/a", "three/bad"]
    assert [(record.crystal or record.refusal).key for record in records] == keys
    assert [record.key for record in read(*folders)] == keys
    records = list(read(*(pd.DataFrame({"id": ids, "cif": [SALT, SALT, "bad"]}) for ids in (["a", "a#2", "b"],) * 2)))
    keys = [record.key for record in records]
    assert keys == ["a", "a#2", "b", "a#3", "a#2#2", "b#2"]
    assert [(record.crystal or record.refusal).key for record in records] == keys


def test_a_json_file_may_hold_many_structures(tmp_path):
    plain = STRUCTURE.as_dict()
    (tmp_path / "list.json").write_text(json.dumps([plain, plain]))
    (tmp_path / "named.json").write_text(json.dumps({"a": plain, "b": plain}))
    assert [record.key for record in read(tmp_path)] == ["list:0", "list:1", "named:a", "named:b"]


def test_frames_of_a_trajectory_are_numbered(tmp_path):
    (tmp_path / "run.extxyz").write_text(XYZ + XYZ.replace("Na", "K"))
    records = list(read(tmp_path))
    assert [record.key for record in records] == ["run:0", "run:1"]
    assert records[1].crystal.composition() == {19: 1.0, 17: 1.0}


@pytest.mark.parametrize("symbols", ["Na D", "Na_pv D", "D Cl", "Na D/0a1b2c", "D D"])
def test_deuterium_of_a_poscar_is_hydrogen_with_a_note(tmp_path, symbols):
    (tmp_path / "POSCAR").write_text(POSCAR.replace("Na Cl", symbols))
    (record,) = read(tmp_path)
    assert 1 in record.crystal.composition()
    assert record.notes == ("deuterium was read as hydrogen",)


def test_deuterium_of_frames_is_hydrogen_and_told_of_where_it_is(tmp_path):
    (tmp_path / "run.xyz").write_text(XYZ + XYZ.replace("Cl", "D").replace("Na", "K") + XYZ.replace("Na", "T"))
    (record,) = read(tmp_path)
    assert "'T' is not an element" in str(record.refusal)
    (tmp_path / "run.xyz").write_text(XYZ + XYZ.replace("Cl", "D").replace("Na", "K"))
    records = list(read(tmp_path))
    assert [record.crystal.composition() for record in records] == [{11: 1.0, 17: 1.0}, {19: 1.0, 1: 1.0}]
    assert [record.notes for record in records] == [(), ("deuterium was read as hydrogen",)]


def test_several_workers_give_the_same_records(monkeypatch):
    monkeypatch.setattr(sources, "CHUNK", 3)
    table = pd.DataFrame({"id": [f"m{n}" for n in range(10)], "cif": [SALT, CESIUM, "junk", SALT, ""] * 2})
    alone = list(read(table, STRUCTURE))
    with parallel_config(backend="threading"):
        together = list(read(table, STRUCTURE, n_jobs=2))
    assert [record.key for record in alone] == [record.key for record in together]
    assert [str(record.refusal) for record in alone] == [str(record.refusal) for record in together]
    for one, other in zip(alone, together, strict=True):
        assert (one.crystal is None) == (other.crystal is None)
        if one.crystal is not None:
            np.testing.assert_array_equal(one.crystal.positions, other.crystal.positions)


def test_what_workers_are_given_can_be_sent_to_other_processes(tmp_path, monkeypatch):
    def through_pipes(work, items, n_jobs):
        for item in items:
            function, sent = pickle.loads(pickle.dumps((work, item)))
            yield pickle.loads(pickle.dumps(function(sent)))

    monkeypatch.setattr(sources, "in_order", through_pipes)
    for name, content in {
        "a.cif": SALT,
        "b.vasp": POSCAR,
        "c.xyz": XYZ,
        "d.json": json.dumps(STRUCTURE.as_dict()),
    }.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "e.zip").write_bytes(zipped(f__cif=SALT, g__zip=b"", h__xyz=XYZ))
    records = list(read(tmp_path, STRUCTURE, CESIUM, "absent.cif", n_jobs=2))
    assert [record.crystal is None for record in records] == [False] * 5 + [True, False, False, False, True]


def test_reading_is_lazy(tmp_path):
    def endless():
        while True:
            yield CESIUM

    assert next(read(endless())).crystal is not None


def test_refusals_and_notes_are_written_for_the_user(tmp_path):
    records = list(read([cif("Xx 0 0 0 1"), cif("D 0 0 0 1"), SALT]))
    for listing in (skipped, notes):
        with listing(tmp_path / f"{listing.__name__}.csv") as add:
            assert sum(map(add, records)) == 1
    with open(tmp_path / "skipped.csv", newline="") as file:
        (line,) = csv.DictReader(file)
    assert line["key"] == "0"
    assert line["source"] == "CIF text 0"
    assert line["reason"] == "'Xx' is not an element"
    assert line["remedy"]
    with open(tmp_path / "notes.csv", newline="") as file:
        (line,) = csv.DictReader(file)
    assert line == {"key": "1", "source": "CIF text 1", "note": "deuterium was read as hydrogen"}


@pytest.mark.parametrize(("n_others", "slip", "told"), [(15, 1e6, 1), (15, -50.0, 1), (15, 9.0, 0), (5, 1e6, 0)])
def test_a_label_that_outweighs_all_others_is_told_of(n_others, slip, told, caplog):
    """One slip of 1e6 among labels of about 1 made mean errors tens of thousands, without a word."""
    gaps = [*np.resize([1.0, 1.5, 2.0, 2.5, 3.0], n_others), slip]
    table = pd.DataFrame({"id": [f"salt-{row}" for row in range(n_others + 1)], "cif": SALT, "gap": gaps})
    assert len(labelled(read(table), "gap").crystals) == n_others + 1
    assert len(caplog.messages) == told
    sentence = f"'gap' of 'salt-15' is {slip:g}, which alone makes most of a mean error, as the median is 2; if it is a"
    assert all(message.startswith(sentence) for message in caplog.messages)


@pytest.mark.parametrize(
    ("value", "times", "told"), [(-999.0, 3, 1), (9999, 2, 1), (-999.9, 2, 1), (999, 1, 0), (99, 4, 0)]
)
def test_a_number_of_nines_that_occurs_again_is_told_of(value, times, told, caplog):
    """Labels of -999, which some tables write for no value, were learnt without a word."""
    gaps = [*np.linspace(-2000, 2000, 20), *[value] * times]
    table = pd.DataFrame({"id": [f"salt-{row}" for row in range(len(gaps))], "cif": SALT, "gap": gaps})
    assert len(labelled(read(table), "gap").crystals) == len(gaps)
    said = f"{times} of {20 + times} values of 'gap' are {value:g}, which often stands for no value; if so here, leave"
    assert [message.startswith(said) for message in caplog.messages] == [True] * told
