"""Many crystals as flat arrays, in memory or on disk.

What is stored is structures (lattice, positions, species of the canonical cell), not pairs: one data set serves every
geometry. On disk a data set is a folder of raw little-endian arrays beside a `manifest.json` that names their counts,
sizes and hashes; opening compares sizes and counts, `integrity.verify` every byte:

    lattice.f8    3 x 3 numbers a crystal, rows are the cell vectors in angstrom
    site_end.i8   where the sites of each crystal end
    position.f4   3 fractional coordinates a site
    species.i4    row of the manifest's species table, one a site
    target.f8     one number a crystal and property, NaN where unknown
    key.u1        names, UTF-8, one after another
    key_end.i8    where each name ends
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from operator import index
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, SupportsIndex, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from crystalmax.crystal import Crystal, CrystalBatch, Occupant, Species, kind_table
from crystalmax.limits import MAX_LENGTH
from crystalmax.segments import ranges
from crystalmax.storage.disk import DiskArray
from crystalmax.storage.manifest import AGAIN, ARRAYS, MANIFEST, content_of, read_manifest, shapes_of
from crystalmax.storage.writing import at_once, checksum_of, checksums, folder_at_once, hash_of, write_json

Rows = Int[np.ndarray, " _"]
"""Row numbers of crystals in a data set."""
Values = Float[np.ndarray, "crystals columns"] | DiskArray

_CHUNK = 512  # crystals that are written or read at once
_THIN = 0.1  # angstrom; `structures` refuses cells that are as thin as several of these


@runtime_checkable
class Dataset(Protocol):
    """What training needs of a data set; a `CrystalDataset`, or a `JoinedDataset` of several."""

    @property
    def content_hash(self) -> str:
        """A hash of all crystals and targets."""

    @property
    def n_sites(self) -> Int[np.ndarray, " crystals"]:
        """Number of sites of each crystal."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: SupportsIndex) -> Crystal: ...

    def crystals(self, rows: Int[np.ndarray, " rows"]) -> list[Crystal]:
        """These crystals."""

    def batch(self, rows: Int[np.ndarray, " batch"]) -> CrystalBatch:
        """These crystals as one batch."""

    def with_targets(self, names: Sequence[str], values: Values) -> "Dataset":
        """The same crystals with more properties."""


class Columns(NamedTuple):
    """Named columns of numbers, with a row for each crystal."""

    names: tuple[str, ...]
    values: Values


@dataclass(frozen=True)
class CrystalDataset:
    """Crystals end to end; `dataset[i]` is a `Crystal`, `dataset.batch(rows)` a `CrystalBatch`.

    Attributes are the arrays above, `kinds`, the species table, `target_names`, the columns of `target`, `provenance`,
    what it was made from, `content_hash`, a SHA-256 of everything but the provenance, and `more`, targets that
    `with_targets` added.
    """

    lattice: Float[np.ndarray, "crystals 3 3"] | DiskArray
    site_end: Int[np.ndarray, " crystals"] | DiskArray
    position: Float[np.ndarray, "sites 3"] | DiskArray
    species: Int[np.ndarray, " sites"] | DiskArray
    target: Float[np.ndarray, "crystals targets"] | DiskArray
    key: UInt8[np.ndarray, " letters"] | DiskArray
    key_end: Int[np.ndarray, " crystals"] | DiskArray
    target_names: tuple[str, ...]
    kinds: tuple[Species, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    content_hash: str = ""
    more: tuple[Columns, ...] = ()

    def __repr__(self) -> str:  # all arrays and species would fill the cell of a notebook
        return f"<CrystalDataset: {len(self):,} crystals with {len(self.species):,} sites>"

    @classmethod
    def from_crystals(cls, crystals: Sequence[Crystal]) -> "CrystalDataset":
        """A data set in memory."""
        kinds: dict[Species, int] = {}
        names: dict[str, int] = {}
        flat = _arrays(crystals, kinds, names)
        content = content_of(names, kinds, {name: checksum_of(array.tobytes()) for name, array in flat.items()})
        arrays = {name: flat[name].reshape(shape) for name, shape in shapes_of(content).items()}
        return cls(**_by_field(arrays), target_names=tuple(names), kinds=tuple(kinds), content_hash=hash_of(content))

    @classmethod
    def open(cls, path: str | Path) -> "CrystalDataset":
        """A data set on disk. This takes milliseconds whatever its size; crystals are read when they are asked for.

        Raises:
            ValueError: The folder holds no data set, a newer format, a manifest that contradicts itself, or arrays of
                another size than the manifest says.
        """
        manifest = read_manifest(path := Path(path))
        arrays = {name: DiskArray(path / name, shape, AGAIN) for name, shape in shapes_of(manifest).items()}
        for name, total in (("site_end.i8", len(arrays["species.i4"])), ("key_end.i8", len(arrays["key.u1"]))):
            for last in arrays[name][-1:].tolist():
                if last != total:
                    raise ValueError(f"{path / name} ends with {last}, not with {total}; {AGAIN}")
        kinds = tuple(tuple(Occupant(*occupant) for occupant in kind) for kind in manifest["kinds"])
        origin = {name: manifest[name] for name in ("provenance", "content_hash")}
        return cls(**_by_field(arrays), target_names=tuple(manifest["target_names"]), kinds=kinds, **origin)

    def __len__(self) -> int:
        return len(self.site_end)

    def __getitem__(self, row: SupportsIndex) -> Crystal:
        row = index(row)
        if not -len(self) <= row < len(self):
            raise IndexError(f"this data set has {len(self)} crystals; there is no crystal {row}")
        return self.crystals(np.array([row % len(self)]))[0]

    def __iter__(self) -> Iterator[Crystal]:
        for begin in range(0, len(self), _CHUNK):
            yield from self.crystals(np.arange(begin, min(begin + _CHUNK, len(self))))

    def crystals(self, rows: Int[np.ndarray, " rows"]) -> list[Crystal]:
        """These crystals, one by one."""
        lattice, sizes, position, species_of_site = self._read(rows)
        keys, targets = self.keys(rows), self.target[rows].tolist()
        crystals, begin = [], 0
        for place, end in enumerate(np.cumsum(sizes).tolist()):
            used, species = np.unique(species_of_site[begin:end], return_inverse=True)
            crystal = Crystal(
                lattice=lattice[place].copy(),
                positions=position[begin:end].astype(np.float64),
                species=species.astype(np.int64),
                kinds=self._kinds(used),
                key=keys[place],
                targets=dict(zip(self.target_names, targets[place], strict=True)),
            )
            crystals.append(crystal)
            begin = end
        return crystals

    def batch(self, rows: Int[np.ndarray, " batch"]) -> CrystalBatch:
        """These crystals as one batch; its species table holds only species that occur in it."""
        lattice, sizes, position, species_of_site = self._read(rows)
        used, species = np.unique(species_of_site, return_inverse=True)
        return CrystalBatch(
            lattice=torch.from_numpy(lattice),
            positions=torch.from_numpy(position.astype(np.float64)),
            species=torch.from_numpy(species.astype(np.int64)),
            kinds=torch.from_numpy(kind_table(self._kinds(used))),
            crystal_of_site=torch.repeat_interleave(torch.arange(len(rows)), torch.from_numpy(sizes)),
            targets=targets_of((Columns(self.target_names, self.target), *self.more), rows),
            keys=self.keys(rows),
        )

    @property
    def n_sites(self) -> Int[np.ndarray, " crystals"]:
        """Number of sites of each crystal."""
        return np.diff(self.site_end[:], prepend=0)

    def keys(self, rows: Int[np.ndarray, " rows"]) -> tuple[str, ...]:
        """Names of these crystals.

        Raises:
            ValueError: They are damaged.
        """
        sizes, letters = _stretches(self.key_end, rows, len(self.key), ("key_end.i8", "letters"))
        text, ends = self.key[letters].tobytes(), np.cumsum(sizes).tolist()
        try:
            return tuple(text[begin:end].decode() for begin, end in zip([0, *ends], ends, strict=False))
        except UnicodeDecodeError:
            raise ValueError(f"{_file(self.key, 'key.u1')} has names that are no text; {AGAIN}") from None

    def values(self, name: str) -> Float[np.ndarray, " crystals"]:
        """A property of all crystals, NaN where unknown.

        Raises:
            ValueError: There is no such property.
        """
        if name not in self.target_names:
            known = ", ".join(self.target_names) or "none"
            raise ValueError(f"the data set has no property {name!r}; its properties: {known}")
        return self.target[:][:, self.target_names.index(name)].copy()

    def with_targets(self, names: Sequence[str], values: Values) -> "CrystalDataset":
        """The same crystals, with more targets in their batches, and without provenance and content hash."""
        more = (*self.more, Columns(tuple(names), values))
        return replace(self, more=more, provenance={}, content_hash="")

    def _read(self, rows: Int[np.ndarray, " rows"]) -> tuple[np.ndarray, ...]:
        """Lattice and number of sites of these crystals; position of each site, and its row of the species table."""
        sizes, sites = _stretches(self.site_end, rows, len(self.species), ("site_end.i8", "sites"))
        if not sizes.all():  # or building a supercell would never end
            raise ValueError(f"{_file(self.site_end, 'site_end.i8')} gives a crystal no sites; {AGAIN}")
        lattice, position = self.lattice[rows], self.position[sites]
        if not (np.abs(position) <= MAX_LENGTH).all():  # the search for neighbors would take too long; also NaN
            file = _file(self.position, "position.f4")
            raise ValueError(f"{file} has a site that is not within {MAX_LENGTH:g} cells; {AGAIN}")
        # Likewise; turned into an axis, a vector has a component longer than any of those that were read.
        is_short = (np.abs(lattice) <= 2 * MAX_LENGTH).all()
        if not (is_short and (np.linalg.svd(lattice, compute_uv=False) >= _THIN).all()):
            raise ValueError(f"{_file(self.lattice, 'lattice.f8')} has cell vectors that no crystal has; {AGAIN}")
        return lattice, sizes, position, self.species[sites]

    def _kinds(self, rows: Int[np.ndarray, " kinds"]) -> tuple[Species, ...]:
        """The species in these rows, ascending, of the species table."""
        if len(rows) and not 0 <= rows[0] <= rows[-1] < len(self.kinds):
            file = _file(self.species, "species.i4")
            raise ValueError(f"{file} points outside the {len(self.kinds)} species of the data set; {AGAIN}")
        return tuple(self.kinds[row] for row in rows)


def targets_of(columns: Iterable[Columns], rows: Int[np.ndarray, " batch"]) -> dict[str, Float[torch.Tensor, " batch"]]:
    """The values of all these columns in these rows, by name of the column."""
    found: dict[str, Float[torch.Tensor, " batch"]] = {}
    for names, values in columns:
        found |= zip(names, torch.from_numpy(values[rows]).unbind(1), strict=True)
    return found


def _stretches(
    ends: Int[np.ndarray, " crystals"] | DiskArray, rows: Int[np.ndarray, " rows"], total: int, names: tuple[str, str]
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " parts"]]:
    """Numbers of sites (or letters) of these crystals, and their rows; the file may be damaged, so they are checked."""
    begin, end = ends[np.stack([np.maximum(rows - 1, 0), rows], axis=1).ravel()].reshape(-1, 2).T  # neighbors at once
    begin = np.where(rows > 0, begin, 0)
    if np.any((begin < 0) | (begin > end) | (end > total)):
        raise ValueError(f"{_file(ends, names[0])} points outside the {total} {names[1]} of the data set; {AGAIN}")
    return end - begin, ranges(torch.from_numpy(begin), torch.from_numpy(end - begin)).numpy()


def _file(array: np.ndarray | DiskArray, name: str) -> Path | str:
    """The path of an array on disk, for messages, or its name where it is in memory."""
    return array.path if isinstance(array, DiskArray) else name


def _by_field(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays by the names of the fields of `CrystalDataset`, which are those of the files without suffix."""
    return {name.partition(".")[0]: array for name, array in arrays.items()}


def batches_of_sites(
    n_sites: Int[np.ndarray, " crystals"], sites_per_batch: int, order: Int[np.ndarray, " rows"] | None = None
) -> list[Int[np.ndarray, " _"]]:
    """Cut an order of crystals into batches of about `sites_per_batch` sites and at least two crystals.

    Unless an order is given, crystals of similar size share a batch. A small remainder joins the batch before it: false
    samples need other crystals to come from.
    """
    order = np.argsort(n_sites, kind="stable") if order is None else order
    if len(order) == 0:
        return []
    number = (np.cumsum(n_sites[order]) - 1) // sites_per_batch
    kept = [0]
    for cut in (np.flatnonzero(np.diff(number)) + 1).tolist():
        if cut - kept[-1] >= 2:
            kept.append(cut)
    small = n_sites[order[kept[-1] :]].sum() < sites_per_batch / 2 or len(order) - kept[-1] < 2
    if small and len(kept) > 1:
        kept.pop()
    return np.split(order, kept[1:])


class DatasetWriter:
    """Appends crystals to a data set on disk, which appears at once when the `with` block ends without an error.

    Until then everything is in `folder`, a hidden one beside it; other files written there come along.

    Raises:
        FileExistsError: `path` exists already.
    """

    def __init__(self, path: str | Path, *, provenance: Mapping[str, Any]) -> None:
        if os.path.lexists(path):  # also a link that leads nowhere
            raise FileExistsError(f"{path} exists already; remove it or choose another name for the data set")
        self.path, self.folder, self.provenance = Path(path), Path(path), provenance
        self.n_crystals = 0
        self._ends = {"site_end.i8": 0, "key_end.i8": 0}
        self._kinds: dict[Species, int] = {}
        self._targets: dict[str, int] = {}
        self._widths: list[tuple[int, int]] = []
        self._waiting: list[Crystal] = []
        self._files: dict[str, IO[bytes]] = {}
        self._whole, self._stack = ExitStack(), ExitStack()

    def __enter__(self) -> "DatasetWriter":
        self.folder = self._whole.enter_context(folder_at_once(self.path))
        self._files = {name: self._stack.enter_context((self.folder / name).open("wb")) for name in ARRAYS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        with self._whole:
            with self._stack:
                if error is not None:
                    raise error
                self._write_waiting()
            self._square_targets()
            write_json(self.folder / MANIFEST, self._manifest())

    def add(self, crystal: Crystal) -> None:
        """Append one crystal; a property that was not there before is unknown for those before it."""
        self.n_crystals += 1
        self._waiting.append(crystal)
        if len(self._waiting) == _CHUNK:
            self._write_waiting()

    def _write_waiting(self) -> None:
        arrays = _arrays(self._waiting, self._kinds, self._targets)
        for name, last in self._ends.items():
            arrays[name] += last
            self._ends[name] = int(arrays[name][-1]) if self._waiting else last
        for name, file in self._files.items():
            file.write(arrays[name].tobytes())
        self._widths.append((len(self._waiting), len(self._targets)))
        self._waiting = []

    def _square_targets(self) -> None:
        """Pad the targets of early crystals with NaN, where properties appeared later."""
        width = len(self._targets)
        if all(known == width for _, known in self._widths):
            return
        path = self.folder / "target.f8"
        with at_once(path) as square, path.open("rb") as ragged:
            for count, known in self._widths:  # chunk by chunk, as they were written
                block = np.full((count, width), np.nan, dtype="<f8")
                block[:, :known] = np.fromfile(ragged, dtype="<f8", count=count * known).reshape(count, known)
                square.write(block.tobytes())

    def _manifest(self) -> dict[str, Any]:
        arrays = checksums(self.folder / name for name in ARRAYS)
        content = content_of(self._targets, self._kinds, arrays)
        beside = checksums(path for path in self.folder.iterdir() if path.name not in ARRAYS)
        return {**content, "content_hash": hash_of(content), "beside": beside, "provenance": dict(self.provenance)}


def _arrays(crystals: Sequence[Crystal], kinds: dict[Species, int], names: dict[str, int]) -> dict[str, np.ndarray]:
    """The flat arrays of these crystals; new species and properties are added to `kinds` and `names`."""
    for crystal in crystals:
        for kind in crystal.kinds:
            kinds.setdefault(kind, len(kinds))
        for name in crystal.targets:
            names.setdefault(name, len(names))
    keys = [crystal.key.encode() for crystal in crystals]
    parts: dict[str, list[Any]] = {
        "lattice.f8": [crystal.lattice.ravel() for crystal in crystals],
        "site_end.i8": [np.cumsum([crystal.n_sites for crystal in crystals])],
        "position.f4": [crystal.positions.ravel() for crystal in crystals],
        "species.i4": [np.array([kinds[kind] for kind in crystal.kinds])[crystal.species] for crystal in crystals],
        "target.f8": [[crystal.targets.get(name, np.nan) for name in names] for crystal in crystals],
        "key.u1": [np.frombuffer(key, dtype="u1") for key in keys],
        "key_end.i8": [np.cumsum([len(key) for key in keys])],
    }
    return {name: np.concatenate([[], *rows]).astype("<" + name.rsplit(".", 1)[1]) for name, rows in parts.items()}
