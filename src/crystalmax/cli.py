"""The command line: each command is a few lines over public functions, loaded only when it is called."""

import logging
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter, Token, validators

from crystalmax import __version__
from crystalmax.storage.writing import check_file, check_free

if TYPE_CHECKING:
    from crystalmax.reading.records import Record

app = App(
    name="crystalmax",
    version=__version__,
    help="Vectors for crystals, learnt from structures alone, with an honest answer to whether that helped.",
    suppress_keyboard_interrupt=False,  # it would end without a word
)

Sources = Annotated[list[Path], Parameter(help="CIF, POSCAR, JSON, XYZ, folder, data set, zip, CSV or Parquet.")]
Target = Annotated[str, Parameter(help="Name of the property, a column of the table.")]


def _whole(_: object, tokens: Sequence[Token]) -> int:
    if not (text := tokens[0].value).removeprefix("-").isdecimal():
        raise ValueError(f"{text!r} is no whole number")  # 1.5 would be rounded
    return int(text)


Whole = Annotated[int, Parameter(converter=_whole)]
Seed = Annotated[Whole, Parameter(validator=validators.Number(gte=0, lt=2**32))]  # as scikit-learn takes them
Run = Annotated[
    Path, Parameter(help="A run folder of `pretrain`, or `shipped`.", show_default=lambda _: "the weights that ship")
]
TableFile = Annotated[
    Path, Parameter(help="A .parquet or .csv file.", validator=lambda _, out: check_file(out, ".csv", ".parquet"))
]


@Parameter(name="*")
@dataclass(frozen=True)
class Options:
    """What every command that reads structures takes.

    Attributes:
        jobs: Processes; -1 for one a core.
        trust: Packages that parts of a model may come from.
    """

    jobs: Whole = -1
    trust: tuple[str, ...] = ()


@Parameter(name="*")
@dataclass(frozen=True)
class Labels(Options):
    """What a command takes besides, where structures come with properties."""

    labels: Annotated[Path | None, Parameter(help="A table of identifiers and properties, joined by file name.")] = None


GIVEN, NO_LABELS, SHIPPED = Labels(), Options(), Path("shipped")


@app.command
def ingest(
    sources: Sources, /, *, out: Path, max_sites: Whole = 1000, unique: bool = False, options: Labels = GIVEN
) -> None:
    """Read structures into a data set, a folder; what cannot be taken is listed in its skipped.csv.

    Args:
        max_sites: Cells with more sites are refused.
        unique: Leave out each structure that came before; skipped.csv names the one that it repeats.
    """
    from crystalmax.fingerprint import fingerprint_of
    from crystalmax.reading.duplicates import without_duplicates
    from crystalmax.reading.ingest import ingest as run

    records = _read(sources, options, max_sites, labels=options.labels, mark=fingerprint_of if unique else None)
    data, n_skipped, n_noted = run(without_duplicates(records) if unique else records, out, made_from=sources)
    print(f"{len(data):,} crystals with {len(data.species):,} sites in {out}")
    print(f"{n_skipped:,} refused, see {out / 'skipped.csv'}; {n_noted:,} read with a note, see {out / 'notes.csv'}")


@app.command
def pretrain(
    data: Annotated[list[Path], Parameter(help="Data sets made by `ingest`, one or several.")],
    /,
    *,
    out: Path,
    recipe: str | None = None,
    start: Path | None = None,
    epochs: Whole | None = None,
    seed: Seed | None = None,
    resume: bool = False,
    accelerator: Literal["cpu", "gpu", "auto"] = "cpu",
    devices: Whole = 1,
    nodes: Whole = 1,
    batches_per_step: Whole | None = None,
    weights: tuple[float, ...] = (),
    jobs: Whole = -1,
    trust: tuple[str, ...] = (),
) -> None:
    """Learn an encoder from the structures of data sets into a run folder; no label is looked at.

    Args:
        recipe: `default` (`intrinsic`), `shipped`, `infomax`, `paper`, `fast`, `cgcnn`, `megnet`, `alignn`, or a file.
        start: A run folder to go on from, with other crystals, or `shipped` for the weights that ship.
        epochs: Passes over the crystals, instead of the recipe's.
        seed: Of initial weights, order, noise and false samples; 0 unless given.
        resume: Go on with the run in the folder.
        accelerator: Where to train.
        devices: Processes on each machine, one a GPU, or any number on CPU.
        nodes: Machines; SLURM or torchrun starts the processes there.
        batches_per_step: Batches that a step averages, a multiple of the number of processes, instead of the recipe's.
        weights: How often each data set is drawn from, in their order; every crystal once an epoch unless given.
        jobs: Processes that prepare what the recipe learns to tell; -1 for one a core.
        trust: Packages that parts of the recipe may come from.
    """
    from joblib import parallel_config

    from crystalmax.learning.pretraining import pretrain as run
    from crystalmax.learning.processes import Processes
    from crystalmax.storage.dataset import CrystalDataset
    from crystalmax.storage.joined import JoinedDataset

    if not (first := Processes(devices, nodes, accelerator).is_first()):
        logging.getLogger().setLevel(logging.WARNING)  # all would say the same
    sets = tuple(map(CrystalDataset.open, data))
    with parallel_config(n_jobs=jobs):
        run(
            sets[0] if len(sets) == 1 else JoinedDataset(sets),
            out,
            recipe=recipe,
            start=start,
            epochs=epochs,
            seed=seed,
            resume=resume,
            accelerator=accelerator,
            devices=devices,
            nodes=nodes,
            batches_per_step=batches_per_step,
            weights=weights,
            progress=sys.stderr.isatty(),
            trusted=trust,
        )
    if first:
        print(f"trained encoder in {out}; its losses in {out / 'losses.svg'}")


@app.command
def represent(
    sources: Sources, /, *, out: TableFile, model: Run = SHIPPED, statistics: bool = False, options: Options = NO_LABELS
) -> None:
    """Write a vector for every structure, and the reason where there is none.

    Args:
        statistics: Whether plain statistics stand behind the vectors, as in what `fit` learns from.
    """
    from crystalmax import prediction
    from crystalmax.featurizer import CrystalFeaturizer

    featurizer = CrystalFeaturizer.from_pretrained(
        model, statistics=statistics, trusted=options.trust, n_jobs=options.jobs
    )
    print(prediction.write(prediction.represent(_read(sources, options), featurizer), out))


@app.command
def evaluate(
    sources: Sources,
    /,
    *,
    target: Target,
    out: Path,
    model: Run = SHIPPED,
    unit: str = "",
    split: Literal["formula", "row"] = "formula",
    seed: Seed = 0,
    options: Labels = GIVEN,
) -> None:
    """Say whether pre-training helps to predict a property from few labels, against untrained twins and plain rivals.

    Args:
        out: A folder for report.html, the scores and the figures.
        unit: Of the property, for the report.
        split: Whether crystals of one formula stay on one side of every split.
        seed: Of the test split and the draws.
    """
    from crystalmax.featurizer import CrystalFeaturizer
    from crystalmax.judging.assessment import assess, feature_sets, report_assessment
    from crystalmax.judging.evaluation import plan_for
    from crystalmax.reading.listing import list_left_out
    from crystalmax.reading.records import labelled
    from crystalmax.seen import seen_before

    check_file(out / "report.html")
    featurizer = CrystalFeaturizer.from_pretrained(model, trusted=options.trust, n_jobs=options.jobs)
    read = labelled(_read(sources, options, labels=options.labels, target=target), target)
    crystals = read.crystals
    name = "the weights that ship" if model == SHIPPED else model.name
    facts = {"crystals": len(crystals), "model": name, "split by": split, "seed": seed}
    facts["seen before"] = seen_before(featurizer.model_, crystals)  # first, as the list may be damaged
    sets, plan = feature_sets(crystals, featurizer), plan_for(len(crystals), seed=seed)
    found = assess(
        crystals, target, sets, unit=unit, plan=plan, by_formula=split == "formula", n_jobs=options.jobs, progress=True
    )
    path = report_assessment(found, out, unit=unit, facts=facts)
    print(f"{found.verdict.sentence}\n{found.verdict.advice}\n{facts['seen before']}")
    print(f"{list_left_out(read, out)}\nreport in {path}")


@app.command
def finetune(
    sources: Sources,
    /,
    *,
    target: Target,
    out: Path,
    model: Run = SHIPPED,
    epochs: Whole = 40,
    seed: Seed = 0,
    options: Labels = GIVEN,
) -> None:
    """Train an encoder further to predict a property: five copies, each without a fifth of the labels, averaged.

    Args:
        out: The model folder to write.
        epochs: Passes over the labelled crystals.
        seed: Of the heads, the folds and the order.
    """
    from crystalmax import prediction
    from crystalmax.reading.listing import list_left_out
    from crystalmax.reading.records import labelled
    from crystalmax.regressor import CrystalRegressor

    check_free(out)
    regressor = CrystalRegressor.from_pretrained(model, trusted=options.trust, epochs=epochs, seed=seed)
    read = labelled(_read(sources, options, labels=options.labels, target=target), target)
    error, trivial = prediction.finetune(read.crystals, target, regressor, out)
    print(f"{list_left_out(read, out)}\nmodel for {target} from {len(read.crystals):,} labels in {out}")
    print(prediction.beside_median(error, trivial, len(read.crystals)))


@app.command
def fit(
    sources: Sources,
    /,
    *,
    target: Target,
    out: Path,
    model: Run = SHIPPED,
    vectors: bool = True,
    networks: bool = False,
    seed: Seed = 0,
    options: Labels = GIVEN,
) -> None:
    """Learn a property from few labels: vectors and statistics of the crystals, a forest and Gaussian processes.

    Args:
        out: The model folder to write.
        vectors: Whether vectors stand beside the statistics; `evaluate` tells whether they help.
        networks: Whether fine-tuned networks have a say, too: less error where structure counts, in minutes.
        seed: Of the forest, the networks and the labels that are left out to choose between members.
    """
    from crystalmax import checkpoint, fitted, prediction
    from crystalmax.reading.listing import list_left_out
    from crystalmax.reading.records import labelled

    check_free(out)
    read = labelled(_read(sources, options, labels=options.labels, target=target), target)
    loaded = checkpoint.load(model, trusted=options.trust) if vectors else None
    found = fitted.fit(read.crystals, target, model=loaded, networks=networks, seed=seed, n_jobs=options.jobs)
    error, trivial = fitted.save(found, out)
    print(f"{list_left_out(read, out)}\nmodel for {target} from {len(read.crystals):,} labels in {out}")
    print(prediction.beside_median(error, trivial, len(read.crystals)))


@app.command
def predict(
    sources: Sources, /, *, model: Path, out: TableFile, coverage: float = 0.9, options: Options = NO_LABELS
) -> None:
    """Write a prediction for every structure, and the reason where there is none.

    Args:
        model: A model folder, as `fit` or `finetune` writes it; what `fit` writes also gives intervals.
        coverage: How likely a measurement lies within the interval.
    """
    from crystalmax import checkpoint, fitted, prediction

    records = _read(sources, options)
    if fitted.holds_fit(model):
        found = fitted.load(model, trusted=options.trust)
        table = fitted.predict(records, found, coverage=coverage, n_jobs=options.jobs)
    elif coverage != 0.9:
        raise ValueError(f"{model} was fine-tuned and gives no intervals; leave out --coverage, or use `fit`")
    else:
        table = prediction.predict(records, checkpoint.load(model, trusted=options.trust))
    print(prediction.write(table, out))


@app.command
def demo(*, out: Path = Path("demo"), epochs: Whole | None = None, jobs: Whole = -1) -> None:
    """Pre-train on minerals, predict measured properties of gems from few labels, and report what helped.

    Args:
        out: A folder for data, run and report; what is there already is used again.
        epochs: Passes over the minerals.
        jobs: Processes; -1 for one a core.
    """
    from crystalmax.demo import run

    run(out, epochs=epochs, n_jobs=jobs, progress=sys.stderr.isatty(), say=print)


@app.command
def study(
    settings: str,
    /,
    *,
    data: str,
    out: Path,
    budget: Literal["tiny", "small", "medium", "full"] = "small",
    parts: tuple[str, ...] = (),
    split: Literal["formula", "row", "fold"] | None = None,
    vectors: tuple[str, ...] = (),
    untrained: tuple[str, ...] = (),
    recipes: tuple[str, ...] = (),
    trust: tuple[str, ...] = (),
    seed: Seed = 0,
    accelerator: Literal["cpu", "gpu", "auto"] = "cpu",
    jobs: Whole = -1,
) -> None:
    """Do the paper's study on labelled data, with controls and rivals; what is done already in the folder is kept.

    Args:
        settings: `paper`, or a TOML file that says which data sets and properties.
        data: Folder with the data sets, or one of Matbench by its name, such as matbench:mp_gap.
        out: Folder for all results; give it again, or a copy of it elsewhere, to go on.
        budget: How much of everything.
        parts: Only these parts, of leakage, curves, representation, transfer, ablation, maps, shift, encoders and
            blocks; all but the last two unless given.
        split: What stays on one side of every split; the formula unless given, or Matbench's own fold 0.
        vectors: NAME=FILE, a table of vectors from elsewhere, as `represent` writes it.
        untrained: NAME=FILE, the same network's vectors before it was trained.
        recipes: NAME=FILE, a recipe to compare with those that ship.
        trust: Packages that parts of these recipes may come from.
        seed: Of splits, draws and networks.
        accelerator: Where to train.
        jobs: Processes; -1 for one a core.
    """
    from crystalmax.study import page, paper
    from crystalmax.study.vectors import files_by_name
    from crystalmax.terminal import progress

    given = {"vectors": vectors, "untrained": untrained, "recipes": recipes}
    files = {name: files_by_name(pairs) for name, pairs in given.items()}
    begun = paper.begin(
        settings, data, out, budget, split, trusted=trust, seed=seed, accelerator=accelerator, n_jobs=jobs, **files
    )
    with progress() as report:
        outcomes = paper.go_on(begun, parts or paper.USUAL, n_jobs=jobs, report=report)
    answer = page.write(begun)
    print(*answer.sentences, f"results in {out / 'results.parquet'}; report in {answer.path}", sep="\n")
    if n_failed := sum(bool(outcome.error) for outcome in outcomes):
        raise ArithmeticError(f"{n_failed} cells failed, see {out / 'failed.csv'}; the same command tries them again")


@app.command
def verify(folders: Annotated[list[Path], Parameter(help="Data set, run, model or study.")], /) -> None:
    """Read every file of data sets, runs, models and studies; name each that is damaged, missing or too many."""
    from crystalmax.integrity import verify as run
    from crystalmax.limits import printable

    n_faults = 0
    for folder, found in zip(folders, map(run, folders), strict=True):
        print(printable("\n".join((*found.faults, *found.notes, f"{folder}: {found.summary}"))))
        n_faults += len(found.faults)
    if n_faults:
        raise ValueError(f"faults found: {n_faults}; they are named above")


def _read(sources: list[Path], options: Options, max_sites: int = 1000, **how: Any) -> Iterable["Record"]:  # noqa: ANN401
    """Canonical records, with a count on a terminal; `how` as `sources.read` takes it."""
    from crystalmax.reading.ingest import records_of_files
    from crystalmax.terminal import counted

    return counted(records_of_files(*sources, max_sites=max_sites, n_jobs=options.jobs, **how), "crystals")
