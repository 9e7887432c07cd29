"""Pre-training from a recipe: a data set in, a run folder out."""

import hashlib
import json
import logging
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import nn

from crystalmax import __version__, elements, plots, seen
from crystalmax.checkpoint import SPEC, START, WEIGHTS, Model, load, read_spec, save
from crystalmax.crystal import Crystal
from crystalmax.encoding import Encoder
from crystalmax.geometry import AllPairs, Geometry
from crystalmax.learning import probe
from crystalmax.learning.history import read_history, terms_of
from crystalmax.learning.processes import PATIENCE, Processes
from crystalmax.learning.saving import HISTORY, Interrupted, stopped_by_signals
from crystalmax.learning.training import Split, Training, train
from crystalmax.learning.vectors import encode
from crystalmax.objectives.base import Objective
from crystalmax.shipped import folder_of
from crystalmax.spec import build, describe, read_recipe, rebuilt, seeded_weights
from crystalmax.statistics.intrinsic import prepared
from crystalmax.storage import writing
from crystalmax.storage.dataset import CrystalDataset, Dataset, Rows
from crystalmax.storage.joined import order

log = logging.getLogger(__name__)

Recipe = str | Path | Mapping[str, object]
"""Name of a shipped recipe, a TOML file, or what one holds."""

VALID_FRACTION = 0.05
_LOCK = "run.lock"
_APART = ("epochs", "seed", "batches_per_step", "weights")  # of the training, given beside a recipe


def pretrain(
    data: Dataset | str | Path,
    run: str | Path,
    *,
    recipe: Recipe | None = None,
    start: str | Path | None = None,
    split: Split | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    resume: bool = False,
    accelerator: str = "cpu",
    devices: int = 1,
    nodes: int = 1,
    batches_per_step: int | None = None,
    weights: Sequence[float] = (),
    progress: bool = False,
    trusted: tuple[str, ...] = (),
) -> list[dict[str, Any]]:
    """Train the objective of a recipe and write a run folder (see `checkpoint`). No label is looked at.

    Crystals with more sites than the geometry's supercell are left out, as in the paper. An interrupted run is saved,
    and goes on with `resume` as if it had not been interrupted, also for more epochs, or on another number of
    processes.

    With several devices or nodes the script that calls this runs once in each process (see `training.train`). All need
    to see the same files; the first one writes.

    Args:
        data: Crystals to learn from, or the folder of a data set.
        run: The folder to write; it must not exist unless `resume` is set.
        recipe: Name of a shipped recipe, a TOML file, or what one holds; `default` unless given, or that of a resumed
            run.
        start: A model, or `shipped`, to start from instead of random weights, such as to train on other crystals. Its
            encoder must be that of the recipe; if the whole objective is the same, all weights are taken. A resumed
            run has its own.
        split: Crystals to learn from, and to watch the losses on, the same when resumed; random unless given.
        epochs: Number of epochs, instead of the recipe's.
        seed: Seed of weights, order, noise and false samples; 0 unless given.
        resume: Whether to go on with the run in this folder.
        accelerator: As Lightning names it.
        devices: Processes on each machine, one a GPU, or any number on CPU.
        nodes: Machines.
        batches_per_step: Instead of the recipe's; a resumed run has its own.
        weights: Weights of several joined data sets (see `joined.drawn`); a resumed run has its own.
        progress: Whether to show a progress bar.
        trusted: Packages, besides crystalmax, that the recipe may take parts from.

    Returns:
        See `training.train`.

    Raises:
        FileExistsError: The folder exists and `resume` is not set.
        BlockingIOError: Another job is writing the folder.
        ValueError: The recipe is wrong or has another encoder than the model to start from, the data are not those that
            the run began with, or there are too few crystals.
    """
    data, run = CrystalDataset.open(data) if isinstance(data, str | Path) else data, Path(run)
    start = None if start is None else folder_of(start)
    processes = Processes(devices, nodes, accelerator)
    first = processes.is_first()
    asked = {"batches_per_step": batches_per_step, "weights": [*weights] or None, "seed": seed, "epochs": epochs}
    given = {name: value for name, value in asked.items() if value is not None}
    plan = _resumed(run, data, recipe, start, given) if resume else _begun(run, data, recipe, start, first)
    plan["training"] |= given
    how = build({"use": "crystalmax.learning.training.Training", **plan["training"]})
    assert isinstance(how, Training)  # the spec says so
    objective, geometry = untrained(plan, how.seed, trusted=trusted)
    begun = deepcopy(objective.encoder)
    parent = load(run / START if resume or start is None else start, trusted=trusted) if plan["start"] else None
    if parent is not None:
        _take_weights(objective, parent)
    split = _split(data, geometry, split, how.seed)
    cut = hashlib.sha256(split.train.tobytes() + b"|" + split.valid.tobytes()).hexdigest()
    if plan.setdefault("split", cut) != cut:
        raise ValueError(f"the run in {run} began with another split of the crystals; give it the same one")
    learnt = np.sort(np.concatenate([split.train, split.valid]))
    extra = {"data": data.content_hash, "recipe": plan["recipe"], "crystals": len(learnt), "start": plan["start"]}
    extra["labels_of"] = () if parent is None else parent.labels_of
    processes.check(objective, how.batches_per_step)
    with seeded_weights(how.seed + 1):  # other weights than its own, and the chance of others is left as it is
        _try(objective, geometry, data.crystals(split.train[:8]), trusted)
    order(data, split.train, how.weights, how.seed, epoch=0)  # refuses weights that do not fit, before writing
    with _folder(run, plan, None if resume else start, first):  # once the recipe has proved sound
        with stopped_by_signals():  # in training, it stops between two steps
            known = prepared(objective.modules(), data, learnt, run)
        try:
            history = train(
                objective, known, split, how, geometry=geometry, folder=run, processes=processes, progress=progress
            )
        except Interrupted:
            if first:
                save(Model(objective, geometry, {**extra, "finished": False}), run)
            raise
        if not first:
            return history
        encoders = {"vectors": objective.eval().encoder, "untrained": begun}
        told = _told(encoders, geometry, data, split.valid, how.sites_per_batch)
        save(Model(objective, geometry, {**extra, "told": told, "finished": True}), run)
        if not (run / seen.FILE).exists():  # a run that goes on has the same structures
            _list_seen(data, learnt, run)
        drawn = plots.training_curves(losses(history), chance=objective.chance)
        with writing.at_once(run / "losses.svg") as file:
            file.write(plots.svg(drawn, "losses").encode())
        for left_over in run.glob(f"*{writing.PARTIAL}"):  # by processes that were killed; now none of this run writes
            left_over.unlink()
        return history


def parts_of(recipe: Recipe | Objective) -> dict[str, Any]:
    """The parts of a recipe, with defaults for those that it does not have.

    Raises:
        ValueError: A part is missing, unknown or no table, or the recipe is an objective or holds Python objects.
    """
    if isinstance(recipe, Objective):
        raise ValueError('an objective is no recipe, as its weights are drawn anew; give {"objective": describe(it)}')
    parts = recipe if isinstance(recipe, Mapping) else read_recipe(recipe)
    try:
        json.dumps(parts)  # as the run will keep it
    except TypeError as error:
        advice = "give describe(it) for a part, and plain numbers"
        raise ValueError(f"the recipe cannot be written to a file ({error}); {advice}") from None
    compare = "compare it with the shipped recipe `paper`"
    if not isinstance(parts.get("objective"), dict):
        raise ValueError(f"the recipe has no [objective]; {compare}")
    if not isinstance(training := parts.get("training", {}), dict) or "use" in training:
        raise ValueError(f"the recipe's training must be a table without `use`; {compare}")
    if unknown := set(parts) - {"geometry", "objective", "training"}:
        raise ValueError(f"the recipe has unknown parts: {', '.join(sorted(unknown))}")
    return {"geometry": describe(AllPairs()), "training": {}, **parts}


def untrained(parts: Mapping[str, Any], seed: int, *, trusted: tuple[str, ...] = ()) -> tuple[Objective, Geometry]:
    """The objective of a recipe with the initial weights of this seed, and what makes its pairs.

    Raises:
        ValueError: The recipe is wrong.
    """
    with seeded_weights(seed):
        objective = build(parts["objective"], trusted=trusted)
    geometry = build(parts["geometry"], trusted=trusted)
    if not (isinstance(objective, Objective) and isinstance(geometry, Geometry)):
        found = f"[objective] is {type(objective).__name__} and [geometry] {type(geometry).__name__}"
        raise ValueError(f"{found}; a recipe needs one that inherits `Objective`, and one that makes pairs")
    if not isinstance(getattr(objective, "encoder", None), nn.Module):
        raise ValueError(f"{type(objective).__name__} has no module as its `encoder`; let its __init__ keep it as that")
    try:
        with seeded_weights(seed):
            for part in (objective, geometry):
                rebuilt(part, trusted=trusted)  # or they could not be saved in the end, or not loaded
    except TypeError as error:
        raise ValueError(str(error)) from None
    return objective, geometry


def _try(objective: Objective, geometry: Geometry, crystals: list[Crystal], trusted: tuple[str, ...]) -> None:
    """Raise a ValueError for an encoder that would be trained in vain, after trying it on these crystals."""
    few, encoder, name = CrystalDataset.from_crystals(crystals), objective.encoder, type(objective.encoder).__name__
    twin = cast(Objective, rebuilt(objective, trusted=trusted))
    twin.load_state_dict(objective.state_dict())
    one, other = (encode(each, geometry, few) for each in (encoder, twin.encoder))
    if not np.allclose(one, other, atol=1e-4, equal_nan=True):
        advice = "keep layers in an nn.ModuleList, and other tensors by `register_buffer`"
        raise ValueError(f"{name} gives other vectors once it is built again and has its weights back; {advice}")
    encoding = twin.encoder(geometry(few.batch(np.arange(2))))  # of large cells, gradients take much memory
    if (found := [level.name for level in encoding.levels]) != (promised := [*encoder.widths]):
        raise ValueError(f"{name} promises the levels {promised} but returns {found}; make `widths` say the same")
    learns = any(weight.requires_grad for weight in cast(nn.Module, encoder).parameters())
    if learns and not encoding.crystals.requires_grad:
        raise ValueError(f"crystal vectors of {name} depend on none of its weights; leave `detach` and `no_grad` out")


def _take_weights(objective: Objective, model: Model) -> None:
    """Copy the weights of a model into an objective: all, or those of the encoder if the objectives differ."""
    known = model.objective
    ours, theirs = (objective, known) if describe(objective) == describe(known) else (objective.encoder, known.encoder)
    if describe(ours) != describe(theirs):
        raise ValueError(
            f"the encoder of the recipe is not that of {model.folder}: {describe(ours)}, not {describe(theirs)}; "
            "give a recipe with the same encoder, or no model to start from"
        )
    cast(nn.Module, ours).load_state_dict(cast(nn.Module, theirs).state_dict())


def _keep(model: Path, folder: Path) -> None:
    """Copy the model that a run starts from, and its list of structures, so that the run can be resumed without it."""
    if (folder / SPEC).exists():  # of a run that was killed before its plan was whole
        shutil.rmtree(folder)
    with writing.folder_at_once(folder) as partial:
        for name in (SPEC, WEIGHTS, seen.FILE):
            if (model / name).exists():
                shutil.copyfile(model / name, partial / name)


def _list_seen(data: Dataset, learnt: Int[np.ndarray, " learnt"], run: Path) -> None:
    """Save the list of structures that a run has learnt from, with those of the model that it started from."""
    before = seen.Seen.load(run / START)
    n_seen = len(learnt) + (0 if before is None else len(before))
    if n_seen > seen.MOST:
        log.info("no list of the %d structures is kept: they are more than %d", n_seen, seen.MOST)
    elif before is None and (run / START).exists():
        log.info("no list of structures is kept: it is not known which ones the model learnt from at the start")
    else:
        now = seen.Seen.of(data[row] for row in learnt.tolist())
        (now if before is None else before + now).save(run)


def _told(
    encoders: Mapping[str, Encoder], geometry: Geometry, data: Dataset, watched: Rows, sites_per_batch: int
) -> dict[str, float] | None:
    """`probe.told` for vectors of structures that were set aside, trained and untrained; None if it is undefined."""
    rows = np.random.default_rng(0).permutation(watched)[: probe.MOST]
    if len(rows) < probe.FEWEST:
        return None
    crystals = data.crystals(np.sort(rows))
    chosen = CrystalDataset.from_crystals(crystals)
    vectors = {name: encode(each, geometry, chosen, sites_per_batch) for name, each in encoders.items()}
    found = {name: round(probe.told(each, crystals), 3) for name, each in vectors.items()}
    if not np.isfinite([*found.values()]).all():
        return None
    log.info(
        "linear maps of the vectors tell %.0f %% of plain statistics of %d structures that were set aside, "
        "those of an untrained network's %.0f %%",
        *(100 * found["vectors"], len(crystals), 100 * found["untrained"]),
    )
    return found


def losses(history: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A table of epoch, split and the loss of each level, without penalties, for `plots.training_curves`."""
    rows = ({"epoch": row["epoch"], "split": row["split"], **terms_of(row, penalties=False)} for row in history)
    return pd.DataFrame(rows)


def _check_goes_on(run: Path, planned: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise a ValueError for options that differ from those of the run, except for more epochs."""
    for name, value in given.items():
        began = planned.get(name, getattr(Training(), name))
        if name != "epochs" and value != began:
            raise ValueError(
                f"the run in {run} began with {name} = {began}, not {value}; leave it out to go on with that"
            )
    if "epochs" in given and given["epochs"] < (behind := _epochs_in(run)):
        raise ValueError(f"the run in {run} has {behind} epochs behind it, more than {given['epochs']}; give no fewer")


def _split(data: Dataset, geometry: Geometry, split: Split | None, seed: int) -> Split:
    """The crystals that the geometry accepts, split as given or else at random."""
    limit = geometry.max_sites if isinstance(geometry, AllPairs) else int(data.n_sites.max())
    rows = np.flatnonzero(data.n_sites <= limit)
    log.info("%d crystals; %d with more than %d sites are left out", len(rows), len(data) - len(rows), limit)
    if split is None:
        split = Split.random(rows, VALID_FRACTION, seed)
    else:
        split = Split(np.intersect1d(split.train, rows), np.intersect1d(split.valid, rows))
    split.check()
    return split


@contextmanager
def _folder(run: Path, plan: Mapping[str, Any], start: Path | None, first: bool) -> Iterator[None]:
    """Let only this job write the folder of a run; its first process makes it, others wait for the plan there."""
    written, began = run / "run.json", time.monotonic()
    if first:
        writing.check_place(run)
        run.mkdir(parents=True, exist_ok=True)
    with writing.alone(run, run / _LOCK) if first else nullcontext():
        if first:
            if start is not None:
                _keep(start, run / START)
            writing.write_json(written, {**plan, "content_hash": writing.hash_of(plan)})
        while not written.exists():
            if time.monotonic() - began > PATIENCE.total_seconds():
                found = f"the first process has not written {written} for {PATIENCE.seconds} s"
                raise ConnectionError(f"{found}; begin the run again")
            time.sleep(0.05)
        yield


def _begun(run: Path, data: Dataset, recipe: Recipe | None, start: Path | None, first: bool) -> dict[str, Any]:
    # A run that was killed before its `run.json` was written has not begun. Other processes may come after the first.
    there = run.iterdir() if first and run.exists() else ()
    if any(path.suffix not in (writing.PARTIAL, ".lock") and path.name != START for path in there):
        raise FileExistsError(f"{run} exists already; go on with it by --resume, or choose another name for the run")
    recipe = "default" if recipe is None else recipe
    parts = parts_of(recipe)
    return {
        "recipe": "given" if isinstance(recipe, Mapping) else str(recipe),
        "objective": parts["objective"],
        "geometry": parts["geometry"],
        "training": {**parts["training"], "seed": 0},
        "start": None if start is None else read_spec(start)["content_hash"],
        "data": data.content_hash,
        "element_table": elements.features_hash(),
        "crystalmax": __version__,
        "torch": torch.__version__,
        "lightning": version("lightning"),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _epochs_in(run: Path) -> int:
    try:
        return max((int(row["epoch"]) for row in read_history(run)), default=0)
    except FileNotFoundError:
        return 0
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{run / HISTORY} is damaged ({error}); remove it, and training writes it anew") from None


def _of_recipe(parts: Mapping[str, Any]) -> Any:  # noqa: ANN401  # as it would be read back
    """What only a recipe defines; options such as epochs are compared separately (see `_check_goes_on`)."""
    training = {name: value for name, value in parts["training"].items() if name not in _APART}
    return json.loads(json.dumps([parts["objective"], parts["geometry"], training]))


def _resumed(
    run: Path, data: Dataset, recipe: Recipe | None, start: Path | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    try:
        plan: dict[str, Any] = json.loads((run / "run.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{run} holds no run to resume ({error})") from None
    if not isinstance(plan, dict) or writing.is_changed(plan):
        raise ValueError(f"{run} holds no run to resume: its run.json is not as it was written")
    del plan["content_hash"]  # it is made anew when the plan is written
    if plan["data"] != data.content_hash:
        remedy = "give it the same data sets in the same order, or begin a new run"
        raise ValueError(f"the run in {run} began with other crystals; {remedy}")
    if plan["element_table"] != elements.features_hash():
        raise ValueError(f"the run in {run} began with another element table; go on with the crystalmax that began it")
    if recipe is not None and _of_recipe(plan) != _of_recipe(parts_of(recipe)):
        raise ValueError(f"the run in {run} began with another recipe than {recipe}; leave the recipe out to go on")
    if start is not None and plan["start"] != read_spec(start)["content_hash"]:
        raise ValueError(f"the run in {run} did not start from {start}; leave that out to go on")
    _check_goes_on(run, plan["training"], given)
    return plan
