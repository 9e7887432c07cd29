"""The command line: each command is a few lines over public functions, loaded only when it is called."""

import logging
import math
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from crystalmax import __version__

if TYPE_CHECKING:
    from pandas import DataFrame

    from crystalmax.crystal import Crystal
    from crystalmax.sources import Record

app = App(
    name="crystalmax",
    version=__version__,
    help="Vectors for crystals, learnt from structures alone, with an honest answer to whether that helped.",
)

Sources = Annotated[
    list[Path], Parameter(help="CIF, POSCAR, JSON or XYZ files, folders, zip archives, CSV or Parquet.")
]
Labels = Annotated[
    Path | None, Parameter(help="A table with an identifier column and properties, joined by file name.")
]
Jobs = Annotated[int, Parameter(help="Processes; -1 for one a core.")]
Trust = Annotated[list[str], Parameter(help="A package that parts of a recipe may come from.")]


@app.command
def ingest(sources: Sources, /, *, out: Path, labels: Labels = None, max_sites: int = 1000, jobs: Jobs = -1) -> None:
    """Read structures into a data set; what cannot be taken is listed in its skipped.csv.

    Args:
        out: The data set to make, a folder.
        max_sites: Cells with more sites are refused.
    """
    from crystalmax.ingest import canonical_records
    from crystalmax.ingest import ingest as run

    records = canonical_records(*sources, labels=labels, max_sites=max_sites, n_jobs=jobs)
    data, n_skipped, n_noted = run(_counted(records, "crystals"), out, made_from=sources)
    _say(f"{len(data):,} crystals with {int(data.n_sites.sum()):,} sites in {out}")
    _say(f"{n_skipped:,} refused, see {out / 'skipped.csv'}; {n_noted:,} read with a note, see {out / 'notes.csv'}")


@app.command
def pretrain(
    data: Path,
    /,
    *,
    out: Path,
    recipe: str = "default",
    epochs: int | None = None,
    seed: int = 0,
    resume: bool = False,
    accelerator: Literal["cpu", "gpu", "mps", "auto"] = "cpu",
    trust: Trust = [],  # noqa: B006  # cyclopts copies it
) -> None:
    """Learn an encoder from the structures of a data set; no label is looked at.

    Args:
        data: A data set made by `ingest`.
        out: The run folder to write.
        recipe: `default`, `paper`, or a TOML file.
        epochs: Passes over the crystals, instead of the recipe's.
        seed: Of initial weights, order, noise and false samples.
        resume: Go on with the run in the folder.
        accelerator: Where to train.
    """
    from crystalmax import plots
    from crystalmax.dataset import CrystalDataset
    from crystalmax.pretraining import losses
    from crystalmax.pretraining import pretrain as run

    history = run(
        CrystalDataset.open(data),
        out,
        recipe=recipe,
        epochs=epochs,
        seed=seed,
        resume=resume,
        accelerator=accelerator,
        progress=sys.stderr.isatty(),
        trusted=tuple(trust),
    )
    plots.training_curves(losses(history)).savefig(out / "losses.svg")
    _say(f"trained encoder in {out}; its losses in {out / 'losses.svg'}")


@app.command
def represent(sources: Sources, /, *, model: Path, out: Path, labels: Labels = None, jobs: Jobs = -1) -> None:
    """Write a vector for every structure: a column `key`, the numbers, and a reason where there is no vector.

    Args:
        model: A run folder.
        out: A .parquet or .csv file.
    """
    from crystalmax.prediction import represent as run

    table = run(_counted(_records(sources, labels, jobs), "crystals"), model)
    _write(table, out)


@app.command
def evaluate(
    sources: Sources,
    /,
    *,
    target: str,
    model: Path,
    out: Path,
    labels: Labels = None,
    unit: str = "",
    split: Literal["formula", "row"] = "formula",
    seed: int = 0,
    jobs: Jobs = -1,
) -> None:
    """Say whether pre-training helps to predict a property from few labels, against untrained twins and plain rivals.

    Args:
        target: Name of the property, a column of the table.
        model: A run folder.
        out: A folder for report.html, the scores and the figures.
        unit: Of the property, for the report.
        split: Whether crystals of one formula stay on one side of every split.
        seed: Of the test split and the draws.
    """
    from crystalmax.assessment import assess, feature_sets, report_assessment
    from crystalmax.evaluation import plan_for
    from crystalmax.featurizer import CrystalFeaturizer
    from crystalmax.sources import write_skipped

    records = list(_counted(_records(sources, labels, jobs), "crystals"))
    crystals = _labelled(records, target)
    features = feature_sets(crystals, CrystalFeaturizer.from_pretrained(model))
    plan = plan_for(len(crystals), seed=seed)
    found = assess(crystals, target, features, unit=unit, plan=plan, by_formula=split == "formula", n_jobs=jobs)
    facts = {"crystals": len(crystals), "model": model.name, "split by": split, "seed": seed}
    path = report_assessment(found, out, unit=unit, facts=facts)
    n_skipped = write_skipped(out / "skipped.csv", records)
    _say(f"{found.verdict.sentence}\n{found.verdict.advice}")
    _say(f"report in {path}; {n_skipped:,} structures refused, see {out / 'skipped.csv'}")


@app.command
def finetune(
    sources: Sources,
    /,
    *,
    target: str,
    model: Path,
    out: Path,
    labels: Labels = None,
    epochs: int = 60,
    seed: int = 0,
    jobs: Jobs = -1,
) -> None:
    """Train an encoder further to predict a property, for as long as held-out folds say that it pays.

    Args:
        target: Name of the property, a column of the table.
        model: A run folder.
        out: The model folder to write.
        epochs: Passes over the labelled crystals at most.
        seed: Of the head, the folds and the order.
    """
    from crystalmax.prediction import finetune as run

    crystals = _labelled(_counted(_records(sources, labels, jobs), "crystals"), target)
    error, trivial = run(crystals, target, model, out, max_epochs=epochs, seed=seed)
    _say(f"model for {target} from {len(crystals):,} labels in {out}")
    _say(f"root mean square error on held-out folds {error:.4g}; of always answering the mean {trivial:.4g}")


@app.command
def predict(sources: Sources, /, *, model: Path, out: Path, labels: Labels = None, jobs: Jobs = -1) -> None:
    """Predict the property that a model was fine-tuned for.

    Args:
        model: A folder written by `finetune`.
        out: A .csv or .parquet file: key, prediction, and a reason where there is none.
    """
    from crystalmax.prediction import predict as run

    _write(run(_counted(_records(sources, labels, jobs), "crystals"), model), out)


@app.command
def demo(*, out: Path = Path("demo"), epochs: int | None = None, jobs: Jobs = -1) -> None:
    """Pre-train on minerals, predict measured properties of gems from few labels, and report what helped.

    Args:
        out: A folder for data, run and report; what is there already is used again.
        epochs: Passes over the minerals, instead of the recipe's.
    """
    from crystalmax.demo import run

    run(out, epochs=epochs, n_jobs=jobs, progress=sys.stderr.isatty(), say=_say)


def _records(sources: list[Path], labels: Path | None, jobs: int) -> Iterator["Record"]:
    from crystalmax.ingest import canonical_records

    return canonical_records(*sources, labels=labels, n_jobs=jobs)


def _labelled(records: Iterable["Record"], target: str) -> list["Crystal"]:
    """Crystals that have a finite value of the target."""
    known: set[str] = set()
    found = []
    for record in records:
        known.update(record.targets)
        if record.crystal is not None and math.isfinite(record.targets.get(target, math.nan)):
            found.append(record.crystal)
    if not found:
        hint = f"the properties are: {', '.join(sorted(known))}" if known else "there are no properties at all"
        raise ValueError(f"no crystal has a value of {target!r}; {hint}")
    return found


def _counted(records: Iterable["Record"], what: str) -> Iterator["Record"]:
    """The same records, with a count on a terminal."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), MofNCompleteColumn(), TextColumn(what), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield from progress.track(records, description=what)


def _write(table: "DataFrame", out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".csv":
        table.to_csv(out, index=False)
    elif out.suffix == ".parquet":
        table.to_parquet(out, index=False)
    else:
        raise ValueError(f"{out} has the ending {out.suffix!r}; expected .csv or .parquet")
    n_refused = int(table["refusal"].ne("").sum())
    _say(f"{len(table) - n_refused:,} rows in {out}; {n_refused:,} more without a result, the reason beside them")


def _say(text: str) -> None:
    print(text)


def main() -> None:
    """Entry point: exit code 0, or 1 with one clear line, or 2 for wrong usage."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # Threads that wait by spinning take the core that another process needs.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        app(result_action="return_value", exit_on_error=True)
    except KeyboardInterrupt:
        sys.exit("crystalmax: interrupted; what was finished is kept")
    except Exception as error:
        if type(error).__name__ == "Interrupted":  # named, not imported: torch takes seconds to load
            sys.exit("crystalmax: interrupted; go on with --resume")
        if not isinstance(error, ValueError | OSError | ImportError | ArithmeticError):
            raise
        sys.exit(f"crystalmax: {' '.join(str(error).split())}")
