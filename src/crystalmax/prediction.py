"""From sources and a model folder to tables: vectors, fine-tuned models, predictions."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from crystalmax import checkpoint
from crystalmax.crystal import Crystal
from crystalmax.featurizer import CrystalFeaturizer
from crystalmax.objectives.blend import Blend
from crystalmax.objectives.supervised import Ensemble, Regression
from crystalmax.reading.records import Record
from crystalmax.regressor import CrystalRegressor
from crystalmax.regressor import predict as predicted
from crystalmax.storage.dataset import CrystalDataset
from crystalmax.storage.writing import at_once, check_free


def represent(records: Iterable[Record], featurizer: CrystalFeaturizer) -> pd.DataFrame:
    """A row a record: `key`, its numbers, in `refusal` the reason where there are none, and its notes in `note`."""
    names = [str(name) for name in featurizer.get_feature_names_out()]
    return table_of(records, names, featurizer.numbers)


def finetune(
    crystals: Sequence[Crystal], target: str, regressor: CrystalRegressor, out: str | Path
) -> tuple[float, float]:
    """Fine-tune on canonical crystals with their target, and write a model folder.

    Args:
        crystals: Canonical crystals, each with a value of the property.
        target: Name of the property.
        regressor: What is fitted, in place.
        out: The model folder.

    Returns:
        Mean absolute error of each label's prediction by what has not seen it, and that of always answering the
        median; both in units of the target.

    Raises:
        FileExistsError: `out` exists already.
        ValueError: There are fewer labels than the folds need.
    """
    check_free(out := Path(out))
    regressor.fit_crystals(crystals, target)
    values = np.array([crystal.targets[target] for crystal in crystals])
    error = float(np.abs(regressor.held_out_ - values).mean())
    extra = {"target": target, "labels": len(crystals), "epochs": regressor.epochs, "error": error}
    checkpoint.save(checkpoint.Model(regressor.objective_, regressor.geometry, extra), out)
    return error, error_of_median(values)


def error_of_median(values: Float[np.ndarray, " labels"]) -> float:
    """The mean absolute error of always answering the median of the labels."""
    return float(np.abs(values - np.median(values)).mean())


def beside_median(error: float, trivial: float, n_labels: int) -> str:
    """An error on labels left out in words, and whether always answering the median does as well."""
    told = f"mean absolute error on labels left out in turn {error:.4g}; of always answering the median {trivial:.4g}"
    worth = "" if error < trivial else ", no worse: what was learnt tells nothing of other crystals"
    # Each label has a say in the scale of all, and in the median: with two labels half of its own error is gone.
    return f"{told}{worth}{f'; of {n_labels} labels both come out too low' if n_labels < 10 else ''}"


def predict(records: Iterable[Record], model: checkpoint.Model) -> pd.DataFrame:
    """A row a record: `key`, `prediction`, in `refusal` the reason where there is none, and its notes in `note`.

    Raises:
        ValueError: The model was not fine-tuned.
    """
    objective = model.objective
    if not isinstance(objective, Regression | Ensemble | Blend):
        what = model.folder or "this model"
        raise ValueError(f"{what} predicts nothing yet; give a model that `crystalmax fit` or `finetune` wrote")
    return table_of(records, ["prediction"], lambda data: predicted(objective, model.geometry, data)[:, None])


def write(table: pd.DataFrame, out: str | Path) -> str:
    """Write a table as CSV or Parquet; returns in words how many rows have a result.

    Raises:
        ValueError: No row has one; the message says why the first has not.
    """
    (out := Path(out)).parent.mkdir(parents=True, exist_ok=True)
    with at_once(out) as file:
        if out.suffix.lower() == ".csv":
            table.to_csv(file, index=False)
        else:
            table.to_parquet(file, index=False)
    refusals = table[table["refusal"] != ""]
    if len(refusals) == len(table):
        raise ValueError(f"there is no result, see {out}: {refusals['refusal'].iloc[0]}")
    return (
        f"{len(table) - len(refusals):,} rows in {out}; {len(refusals):,} more without a result, the reason beside them"
        f"; {(table['note'] != '').sum():,} with a note"
    )


def table_of(
    records: Iterable[Record],
    columns: Sequence[str],
    compute: Callable[[CrystalDataset], Float[np.ndarray, "crystals columns"]],
) -> pd.DataFrame:
    """A row a record: `key`, what is computed for its crystal, why there is nothing, and what was reinterpreted."""
    everything = list(records)
    crystals = {row: record.crystal for row, record in enumerate(everything) if record.crystal is not None}
    values = np.full((len(everything), len(columns)), np.nan)
    if crystals:
        values[list(crystals)] = compute(CrystalDataset.from_crystals(list(crystals.values())))
    keys = pd.DataFrame({"key": [record.key for record in everything]})
    reasons = ["" if record.refusal is None else str(record.refusal) for record in everything]
    notes = ["; ".join(record.notes) for record in everything]
    return pd.concat([keys, pd.DataFrame(values, columns=list(columns))], axis=1).assign(refusal=reasons, note=notes)
