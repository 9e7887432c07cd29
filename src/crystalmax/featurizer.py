"""Crystals in, numbers out, as a scikit-learn transformer: vectors of a frozen encoder, plain statistics, or both."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, TransformerMixin, clone

from crystalmax import checkpoint
from crystalmax.crystal import Crystal
from crystalmax.encoding import Encoder, width_of
from crystalmax.geometry import AllPairs, Geometry
from crystalmax.learning.vectors import encode
from crystalmax.reading.ingest import canonical_records
from crystalmax.reading.structures import Refused, origin_of
from crystalmax.reading.tables import Table
from crystalmax.spec import rebuilt, seeded_weights
from crystalmax.spread import in_order
from crystalmax.statistics import baselines
from crystalmax.storage.dataset import CrystalDataset

log = logging.getLogger(__name__)

CHUNK = 128
"""Structures that a worker process is given at once."""

Rows = TypeVar("Rows", list[object], np.ndarray)


class CrystalFeaturizer(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # sklearn has no types
    """Numbers that describe crystals: vectors of a frozen encoder, plain statistics, or both side by side.

    Without arguments these are the vectors of the weights that come with the package, then the statistics of
    `baselines`: with `SmallDataRegressor`, the best we have found so far. Nothing is fitted; `fit` is there for
    pipelines. Crystals are brought to their canonical cell first, so the numbers do not depend on the choice of cell.

    Args:
        encoder: A trained encoder, "shipped" for the one that comes with the package, or None for statistics alone.
        geometry: Makes the pairs that the encoder was trained on; the shipped one brings its own.
        statistics: Whether statistics follow the vectors.
        sites_per_batch: Sites that are encoded at once; changes memory and speed, not results.
        on_error: Whether a structure that cannot be read raises, or becomes a row of NaN with its reason in
            `refusals_`.
        n_jobs: Processes that read structures and compute statistics, -1 for one a core; None for one, unless
            `joblib.parallel_config` says otherwise, as for Dask or Ray. The encoder runs in this process.

    Attributes:
        refusals_: After `transform`: for each row that is NaN, its position and the reason.
        model_: After `from_pretrained`: the model that the encoder belongs to, with what it has learnt from.
    """

    model_: checkpoint.Model | None = None

    def __init__(
        self,
        encoder: Encoder | Literal["shipped"] | None = "shipped",
        *,
        geometry: Geometry = AllPairs(),  # noqa: B008  # frozen
        statistics: bool = True,
        sites_per_batch: int = 4800,
        on_error: Literal["raise", "nan"] = "raise",
        n_jobs: int | None = None,
    ) -> None:
        self.encoder, self.geometry, self.statistics = encoder, geometry, statistics
        self.sites_per_batch, self.on_error, self.n_jobs = sites_per_batch, on_error, n_jobs

    @classmethod
    def from_pretrained(
        cls,
        run: str | Path = "shipped",
        *,
        statistics: bool = False,
        trusted: tuple[str, ...] = (),
        **options: Any,  # noqa: ANN401  # as __init__
    ) -> "CrystalFeaturizer":
        """Vectors of a run folder, or of the weights that come with the package; without statistics by default."""
        model = checkpoint.load(run, trusted=trusted)
        featurizer = cls(model.encoder, geometry=model.geometry, statistics=statistics, **options)
        featurizer.model_ = model
        return featurizer

    def untrained_twin(self, seed: int) -> "CrystalFeaturizer":
        """The same network with random initial weights: the control that shows what training added.

        Raises:
            ValueError: There is no encoder.
        """
        if self._network is None:
            raise ValueError("there is no network here whose weights could be random; give an encoder")
        encoder, geometry = self._network
        twin: CrystalFeaturizer = clone(self).set_params(encoder=untrained(encoder, seed), geometry=geometry)
        return twin

    def fit(self, X: Iterable[object], y: object = None) -> "CrystalFeaturizer":  # sklearn's name
        """Do nothing; the encoder is trained already, and statistics need no training."""
        return self

    def transform(self, X: Iterable[object]) -> Float[np.ndarray, "crystals width"]:  # sklearn's name
        """Numbers of these structures, a row each, in their order: vectors first, then statistics.

        Args:
            X: Any mix of `Crystal`, pymatgen `Structure` or its `as_dict()`, ASE `Atoms`, CIF text and paths to files.

        Raises:
            Refused: A structure cannot be read, and `on_error` is "raise".
            ValueError: `on_error` is unknown, neither vectors nor statistics were asked for, or X is no list.
        """
        self._check()
        crystals, rows, self.refusals_ = readable(X, raise_on_error=self.on_error == "raise", n_jobs=self.n_jobs)
        found = np.full((len(rows) + len(self.refusals_), len(self.get_feature_names_out())), np.nan, dtype=np.float32)
        if crystals:
            found[rows] = self.numbers(CrystalDataset.from_crystals(crystals))
        return found

    def numbers(self, data: CrystalDataset) -> Float[np.ndarray, "crystals width"]:
        """Numbers of canonical crystals, as `ingest.canonical_records` reads them, a row each."""
        self._check()
        parts = []
        if self._network is not None:
            parts.append(encode(*self._network, data, self.sites_per_batch))
        if self.statistics:
            # In the same chunks however many processes there are: sums over more rows may round otherwise.
            chunks = (data.crystals(rows) for rows in _chunks(np.arange(len(data))))
            parts.append(np.concatenate(list(in_order(_statistics, chunks, self.n_jobs))))
        return np.concatenate(parts, axis=1)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Widths of the blocks of columns, for the `blocks` of `SmallDataRegressor`."""
        vectors = () if self._network is None else (width_of(self._network[0]),)
        return (*vectors, *(baselines.statistics_widths() if self.statistics else ()))

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:
        """Names of the columns."""
        width = 0 if self._network is None else width_of(self._network[0])
        names = [f"crystalmax_{i:03d}" for i in range(width)]
        if self.statistics:
            names += chain.from_iterable(baselines.names_of_blocks().values())
        return np.array(names, dtype=object)

    @property
    def _network(self) -> tuple[Encoder, Geometry] | None:
        if isinstance(self.encoder, str):
            return _shipped()
        return None if self.encoder is None else (self.encoder, self.geometry)

    def _check(self) -> None:
        if self.on_error not in ("raise", "nan"):
            raise ValueError(f"on_error is {self.on_error!r}; give 'raise' or 'nan'")
        if not (self.encoder is None or self.encoder == "shipped" or isinstance(self.encoder, Encoder)):
            remedy = "give 'shipped', None or an encoder, or call `from_pretrained`"
            raise ValueError(f"encoder is {self.encoder!r}; {remedy}")
        if self.encoder is None and not self.statistics:
            raise ValueError("without an encoder and without statistics there is nothing to give; ask for one of them")

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401  # sklearn's own type
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.requires_fit = False
        return tags


@cache
def _shipped() -> tuple[Encoder, Geometry]:
    model = checkpoint.load("shipped")
    return model.encoder, model.geometry


def untrained(encoder: Encoder, seed: int) -> Encoder:
    """The same network with the initial weights of this seed."""
    with seeded_weights(seed):
        return cast(Encoder, rebuilt(encoder))


def readable(
    structures: Iterable[object], *, raise_on_error: bool, n_jobs: int | None = None
) -> tuple[list[Crystal], list[int], dict[int, str]]:
    """Canonical crystals of the structures that can be read, their rows, and the reason of refusal for each other row.

    Raises:
        Refused: A structure cannot be read, and `raise_on_error` is set.
        ValueError: The structures are not a list but one structure, or a table of several columns.
    """
    if isinstance(structures, Table) and structures.shape[1] == 1:
        structures = structures.iloc[:, 0]
    if isinstance(structures, str | bytes | PathLike | Mapping | Table) or origin_of(structures):
        remedy = "give its column with the structures" if isinstance(structures, Table) else "put it in brackets"
        raise ValueError(f"structures come as a list, not as one {type(structures).__name__}; {remedy}")
    structures = list(structures)  # it may be a generator, which can be gone through only once
    crystals, rows, refusals = [], [], {}
    for row, found in enumerate(chain.from_iterable(in_order(_read, _chunks(structures), n_jobs))):
        if isinstance(found, Crystal):
            crystals.append(found)
            rows.append(row)
            continue
        refusal = Refused(f"row {row}: {found.key}", found.reason, found.remedy)
        if raise_on_error:
            raise refusal
        refusals[row] = str(refusal)
    if refusals:
        log.warning("%d of %d structures were refused; see `refusals_`", len(refusals), len(structures))
    return crystals, rows, refusals


def _read(structures: list[object]) -> list[Crystal | Refused]:
    """The crystal of each structure, or why there is none; a file with several structures is refused."""
    found: list[Crystal | Refused] = []
    for structure in structures:
        records = list(canonical_records(structure, n_jobs=1))
        outcome = (records[0].crystal or records[0].refusal) if len(records) == 1 else None
        key = records[0].key if records else ""
        found.append(outcome or Refused(key, f"it holds {len(records)} structures", "give them one by one"))
    return found


def _statistics(crystals: list[Crystal]) -> Float[np.ndarray, "crystals numbers"]:
    return baselines.statistics(crystals)[0].astype(np.float32)


def _chunks(rows: Rows) -> Iterator[Rows]:
    """These rows in pieces, one for a worker at a time."""
    return (rows[begin : begin + CHUNK] for begin in range(0, len(rows), CHUNK))
