"""The settings of a study: data sets, budget and folder; with the splits, draws and networks that follow from them."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Int
from torch import nn

from crystalmax.checkpoint import SPEC, Model, load, read_spec, stopped
from crystalmax.judging.evaluation import TWIN_SEEDS
from crystalmax.learning.pretraining import parts_of, pretrain
from crystalmax.learning.training import Split
from crystalmax.learning.vectors import encode
from crystalmax.storage.dataset import Rows
from crystalmax.storage.writing import hash_of
from crystalmax.study import networks
from crystalmax.study.material import Material, Parts, SplitBy
from crystalmax.study.vectors import Vectors, whole_rows


@dataclass(frozen=True)
class Budget:
    """The size of a study.

    Attributes:
        name: Name of the budget for the command.
        max_sites: Crystals with more sites in the primitive cell are left out.
        max_crystals: Larger data sets are replaced by a random sample of this size; None to take all.
        labels: Numbers of labels, ascending.
        draws: Number of draws for each number of labels.
        transfer_seeds: Trials of fine-tuning for each number of labels.
        twins: Untrained networks beside each trained one.
        epochs: Epochs of every pre-training, instead of the recipe's.
        fine_tuning_epochs: Epochs of every fine-tuning.
        trees: Trees of every forest.
        encoder_crystals: Most structures that each network of the part `encoders` learns from.
        encoder_epochs: Most epochs of these networks.
    """

    name: str
    max_sites: int
    max_crystals: int | None
    labels: tuple[int, ...]
    draws: tuple[int, ...]
    transfer_seeds: int
    twins: int = 5
    epochs: int | None = None
    fine_tuning_epochs: int = 40
    trees: int = 100
    encoder_crystals: int | None = None
    encoder_epochs: int | None = None


_LABELS = (50, 100, 250, 1000)
BUDGETS: Mapping[str, Budget] = {
    budget.name: budget
    for budget in (
        Budget("tiny", 20, 60, (8, 16), (3, 2), 1, twins=2, epochs=1, fine_tuning_epochs=2, trees=5),
        Budget(
            "small",
            20,
            2000,
            _LABELS,
            (5, 5, 5, 3),
            2,
            twins=3,
            fine_tuning_epochs=10,
            trees=30,
            encoder_crystals=1000,
            encoder_epochs=5,
        ),
        Budget("medium", 20, None, _LABELS, (20, 20, 20, 20), 4, trees=50, encoder_crystals=4000, encoder_epochs=5),
        Budget("full", 50, None, _LABELS, (100, 100, 100, 25), 12),
    )
}
"""The budgets by name; `tiny` shows within seconds that everything runs, and nothing else."""


@dataclass(frozen=True)
class Study:
    """A study: everything that its cells depend on.

    Attributes:
        folder: Folder for all results.
        materials: The data sets.
        budget: The size of the study.
        split: How all data sets are split.
        vectors: Vectors from elsewhere to compare with.
        seed: Seed of the split, the draws and the trained networks.
        accelerator: Device for training, as Lightning names it.
        recipes: Content of recipes to compare with those that ship, by name.
        trusted: Packages, besides crystalmax, that these may take parts from.
    """

    folder: Path
    materials: tuple[Material, ...]
    budget: Budget
    split: SplitBy = "formula"
    vectors: tuple[Vectors, ...] = ()
    seed: int = 0
    accelerator: str = "cpu"
    recipes: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    trusted: tuple[str, ...] = ()

    def material(self, name: str) -> Material:
        """A data set by its name."""
        found = {material.name: material for material in self.materials}
        if name not in found:
            raise ValueError(f"the study has no data set {name!r}; there are {', '.join(found)}")
        return found[name]

    @property
    def own(self) -> list[Material]:
        """Data sets with their own pre-trained networks; the others use those of their donor."""
        return [material for material in self.materials if material.donor == material.name]

    @property
    def twin_seeds(self) -> range:
        """Seeds of the untrained networks that stand beside each trained one."""
        return range(TWIN_SEEDS[0], TWIN_SEEDS[0] + self.budget.twins)

    def pretraining(self, material: Material) -> tuple[Material, Rows]:
        """The data set, and its rows, that the networks for a data set are pre-trained on by default."""
        donor = self.material(material.donor)
        return donor, self.parts(donor).structures

    def parts(self, material: Material) -> Parts:
        """The split of a data set, the same in all parts of the study."""
        return material.parts(self.split, self.seed)

    def labelled(self, material: Material, name: str, labels: int, draw: int) -> Int[np.ndarray, " labels"]:
        """Rows with the labels of a draw: the same for every method, and a subset of the same draw of more labels."""
        pool = self.pool(material, name)
        if labels > len(pool):
            raise ValueError(f"{material.name} has {len(pool)} labels of {name} to draw from, fewer than {labels}")
        return np.random.default_rng([self.seed, draw]).permutation(pool)[:labels]

    def pool(self, material: Material, name: str) -> Int[np.ndarray, " pool"]:
        """Rows that labels are drawn from."""
        return self.described(material, material.known(name, self.parts(material).train))

    def tested(self, material: Material, name: str) -> Int[np.ndarray, " tested"]:
        """Rows that are predicted, the same for every method."""
        return self.described(material, material.known(name, self.parts(material).test))

    def described(self, material: Material, rows: Rows) -> Rows:
        """The rows, of these, with vectors from everywhere: what one method cannot describe is left out for all."""
        for path in (path for vectors in self.vectors for path in (*vectors.tables, *vectors.untrained)):
            if (whole := whole_rows(path, material.keys)) is not None:
                rows = rows[whole[rows]]
        return rows

    def budgets(self, material: Material, name: str) -> list[tuple[int, int]]:
        """Numbers of labels that the data set has enough for, each with its number of draws; none without test rows."""
        n_pool = len(self.pool(material, name)) if len(self.tested(material, name)) else 0
        return [(n, draws) for n, draws in zip(self.budget.labels, self.budget.draws, strict=True) if n < n_pool]

    def recipe(self, name: str) -> Mapping[str, object]:
        """The content of a recipe, one that was given to the study or one that ships."""
        return self.recipes[name] if name in self.recipes else parts_of(name)

    def network(self, material: Material, recipe: networks.Recipe = "infomax", rows: Rows | None = None) -> Model:
        """A network pre-trained on these rows of a data set, or on all but its test split; trained on first use.

        Args:
            material: The data set.
            recipe: Name of a recipe, or its content, perhaps changed.
            rows: Rows to learn from; those among `Parts.valid` are for the validation loss.
        """
        return load(self.network_folder(material, recipe, rows), trusted=self.trusted)

    def network_folder(self, material: Material, recipe: networks.Recipe = "infomax", rows: Rows | None = None) -> Path:
        """The run folder of `network`, as `pretraining.pretrain` writes it; trained on first use.

        A run that was interrupted goes on where it stopped; another process that needs the same network waits for it.
        """
        parts, content = self.parts(material), self.recipe(recipe) if isinstance(recipe, str) else recipe
        rows = parts.structures if rows is None else rows
        split = Split(np.setdiff1d(rows, parts.valid), np.intersect1d(rows, parts.valid))
        learnt = [material.data.content_hash, split.train.tolist(), split.valid.tolist()]
        run = self.folder / "networks" / hash_of([*learnt, content, self.budget.epochs, self.seed])[:16]
        run.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{run}.lock"):
            if not (run / SPEC).exists() or stopped(run, read_spec(run)):
                pretrain(
                    material.data,
                    run,
                    recipe=content,
                    split=split,
                    epochs=self.budget.epochs,
                    seed=self.seed,
                    resume=(run / "run.json").exists(),
                    accelerator=self.accelerator,
                    trusted=self.trusted,
                )
        return run

    def untrained(self, recipe: str, seed: int) -> Model:
        """The network of a recipe with the initial weights of this seed."""
        return networks.untrained(self.recipe(recipe), seed, self.trusted)

    def encoded(self, model: Model, material: Material) -> networks.Features:
        """Crystal vectors of a whole data set by the encoder of a model, kept on disk."""
        data, encoder = material.data, model.encoder
        assert isinstance(encoder, nn.Module)  # it was built from a recipe
        weights = b"".join(tensor.cpu().numpy().tobytes() for tensor in encoder.state_dict().values())
        device = "cuda" if self.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
        name = hash_of([data.content_hash, hashlib.sha256(weights).hexdigest()])[:16]
        path = self.folder / "vectors" / f"{name}.npy"
        return networks.kept(path, lambda: encode(encoder.to(device), model.geometry, data))

    def kept(self, material: Material, name: str, make: Callable[[], networks.Features]) -> networks.Features:
        """Numbers that describe the crystals of a data set, made once and kept on disk under this name."""
        return networks.kept(self.folder / "vectors" / material.name / f"{name}.npy", make)
