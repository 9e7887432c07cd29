"""Training: one LightningModule and one Trainer, for pre-training and for fine-tuning alike.

Chance is a function of (seed, epoch) for the order of crystals and of (seed, step) for noise and false samples, never
of what ran before; so a run that was killed and resumed gives the weights of a run that was not.
"""

import json
import logging
import signal
import threading
import time
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import lightning.pytorch as pl
import numpy as np
import torch
from jaxtyping import Int
from lightning.pytorch.callbacks import Callback, Checkpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Generator, Tensor, nn

from crystalmax.crystal import CrystalBatch
from crystalmax.dataset import CrystalDataset, batches_of_sites
from crystalmax.geometry import Geometry
from crystalmax.memory import keep_freed_memory
from crystalmax.objectives.base import Objective
from crystalmax.writing import PARTIAL, at_once, settle

log = logging.getLogger(__name__)

Precision = Literal["32-true", "bf16-mixed"]
Rows = Int[np.ndarray, " _"]
_SECONDS_BETWEEN_SAVES = 60.0
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """Training was asked to stop by a signal, and did so between two steps."""


@dataclass(frozen=True)
class Training:
    """How to train.

    Attributes:
        epochs: Passes over the crystals.
        sites_per_batch: A batch is filled with crystals up to about this many sites.
        learning_rate: Of AdamW (amsgrad).
        weight_decay: Of AdamW.
        clip: Gradients longer than this are shortened to it.
        seed: Of the order of crystals, noise and false samples; initial weights have the seed they were made with.
        precision: "32-true", or "bf16-mixed" for products in bfloat16 on accelerators that are faster at these.
    """

    epochs: int = 15
    sites_per_batch: int = 1200
    learning_rate: float = 8.12e-4
    weight_decay: float = 1e-4
    clip: float = 1.0
    seed: int = 0
    precision: str = "32-true"

    def __post_init__(self) -> None:
        for name in ("epochs", "sites_per_batch", "learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"training with {name} = {getattr(self, name)} is impossible; it must be above 0")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision is {self.precision!r}; give one of {', '.join(get_args(Precision))}")


@dataclass(frozen=True)
class Split:
    """Rows of a data set to train on, and rows to watch the losses on; neither needs a label."""

    train: Rows
    valid: Rows

    @classmethod
    def random(cls, rows: Rows, valid_fraction: float, seed: int) -> "Split":
        """A random cut of these rows."""
        shuffled = np.random.default_rng(seed).permutation(rows)
        n_valid = round(valid_fraction * len(rows))
        return cls(train=np.sort(shuffled[n_valid:]), valid=np.sort(shuffled[:n_valid]))


@contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Modules made inside get weights that depend on the seed alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def train(
    objective: Objective,
    data: CrystalDataset,
    split: Split,
    how: Training,
    *,
    geometry: Geometry,
    folder: Path | None = None,
    accelerator: str = "cpu",
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Train an objective in place.

    With a folder, everything that a resumed run needs is saved there every epoch and on interruption, and a run that
    finds such a file goes on from it; losses are logged for TensorBoard and as CSV.

    Returns:
        One row an epoch and part of the split: `epoch`, `split`, the mean of each term, `crystals_per_second`.

    Raises:
        ValueError: There are too few crystals to train on, or what a run left is damaged.
        FloatingPointError: A loss is not finite; the message names the crystals of the batch.
        Interrupted: A signal asked to stop; with a folder, everything so far is saved.
    """
    if len(split.train) < 2:
        raise ValueError(f"training needs at least 2 crystals, but there are {len(split.train)}")
    keep_freed_memory()
    module = _Module(objective, data, split, how, geometry)
    saved = None if folder is None else folder / "last.ckpt"
    if saved is not None and saved.exists() and not zipfile.is_zipfile(saved):
        raise ValueError(f"{saved} was cut short, so training cannot go on from it; remove it to begin anew")
    callbacks: list[Callback] = [_Saver(saved, module)]
    loggers = [] if folder is None else [CSVLogger(folder, "csv", ""), TensorBoardLogger(folder, "tensorboard", "")]
    with _quiet():
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=1,
            precision=cast(Precision, how.precision),
            max_epochs=how.epochs,
            gradient_clip_val=how.clip,
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            logger=loggers,
            log_every_n_steps=10,
            callbacks=[*callbacks, TQDMProgressBar(leave=False)] if progress else callbacks,
            enable_progress_bar=progress,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(module, ckpt_path=saved if saved is not None and saved.exists() else None, weights_only=True)
    return module.history


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's announcements; and with signals handled afterwards as they were before."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    handlers = [(number, signal.getsignal(number)) for number in _STOP_SIGNALS]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers:
                signal.signal(number, handler)


class _Batches:
    """Batches of one epoch from a given batch on; Lightning stores and restores where it is."""

    def __init__(self, data: CrystalDataset, batches: list[Rows]) -> None:
        self.data, self.batches, self.next = data, batches, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[CrystalBatch]:
        while self.next < len(self.batches):
            self.next += 1
            yield self.data.batch(self.batches[self.next - 1])
        self.next = 0

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.next = state["next"]


class _Module(pl.LightningModule):
    """Glue between an objective and Lightning; it knows nothing of what the objective does.

    `history` has one row an epoch and part of the split; the sums of an unfinished epoch survive a checkpoint.
    """

    def __init__(
        self, objective: Objective, data: CrystalDataset, split: Split, how: Training, geometry: Geometry
    ) -> None:
        super().__init__()
        if not isinstance(objective, nn.Module):
            raise TypeError(f"an objective must be a torch module, but {type(objective).__name__} is not")
        self.objective, self.data, self.split, self.how, self.geometry = objective, data, split, how, geometry
        self.history: list[dict[str, Any]] = []
        self.sums: dict[str, dict[str, float]] = {}
        self.seconds, self.began = 0.0, time.perf_counter()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        rate, decay = self.how.learning_rate, self.how.weight_decay
        # Fused: a step over sixty small tensors in 0.3 ms instead of 2. In mixed precision, Lightning does not clip the
        # gradients of fused optimisers.
        fused = self.how.precision == "32-true"
        return torch.optim.AdamW(self.parameters(), lr=rate, weight_decay=decay, amsgrad=True, eps=1e-7, fused=fused)

    def train_dataloader(self) -> _Batches:
        shuffled = np.random.default_rng([self.how.seed, self.trainer.current_epoch]).permutation(self.split.train)
        return _Batches(self.data, batches_of_sites(self.data.n_sites, self.how.sites_per_batch, shuffled))

    def val_dataloader(self) -> _Batches:
        rows = self.split.valid
        cut = batches_of_sites(self.data.n_sites, self.how.sites_per_batch, rows) if len(rows) > 1 else []
        return _Batches(self.data, cut)

    def transfer_batch_to_device(self, batch: CrystalBatch, device: torch.device, dataloader_idx: int) -> CrystalBatch:
        return self.geometry(batch.to(device))

    def training_step(self, batch: CrystalBatch, batch_idx: int) -> Tensor:
        terms = self.objective(batch, self._rng(self.trainer.global_step, batch.device))
        total = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(total):
            values = ", ".join(f"{name} {value.item():.4g}" for name, value in terms.items())
            raise FloatingPointError(f"the loss is not finite ({values}) on the crystals {', '.join(batch.keys)}")
        losses = {name: value.detach() for name, value in terms.items() if not name.endswith("_penalty")}
        self.log_dict(losses, prog_bar=True, batch_size=batch.n_crystals)
        self._count("train", terms, batch)
        return total

    def validation_step(self, batch: CrystalBatch, batch_idx: int) -> None:
        # The same false samples every epoch, so that the curve shows the network and not the draw.
        self._count("valid", self.objective(batch, self._rng(-1 - batch_idx, batch.device)), batch)

    def on_train_epoch_start(self) -> None:
        self.began = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        for split, sums in self.sums.items():
            n_crystals = sums.pop("crystals")
            means = {name: value / n_crystals for name, value in sums.items()}
            self.history.append({"epoch": self.current_epoch + 1, "split": split, **means})
            if split == "train":
                self.history[-1]["crystals_per_second"] = round(n_crystals / self._seconds(), 1)
            self.log_dict({f"{split}/{name}": value for name, value in means.items()})
        self.sums, self.seconds = {}, 0.0
        level = logging.INFO if self.trainer.loggers else logging.DEBUG  # fine-tuning trains many times over
        log.log(level, "%s", _sentence(self.history, self.how.epochs, self.objective.chance))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = {"rows": self.history, "sums": self.sums, "seconds": self._seconds()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history, self.sums, self.seconds = checkpoint["history"].values()

    def _rng(self, step: int, device: torch.device) -> Generator:
        key = np.random.SeedSequence([self.how.seed, step % 2**32]).generate_state(1, np.uint64)[0]
        return torch.Generator(device).manual_seed(int(key) >> 1)

    def _count(self, split: str, terms: Mapping[str, Tensor], batch: CrystalBatch) -> None:
        sums = self.sums.setdefault(split, {"crystals": 0.0})
        sums["crystals"] += batch.n_crystals
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + value.item() * batch.n_crystals

    def _seconds(self) -> float:
        return self.seconds + time.perf_counter() - self.began


class _Saver(Checkpoint):
    """Saves at the end of an epoch, once a minute within it, and between two steps when asked to stop.

    A signal never cuts a step in two: what is saved is always the state between steps. Without a path it only stops, as
    Lightning would pass what is half trained for trained.
    """

    def __init__(self, path: Path | None, module: _Module) -> None:
        self.path, self.module = path, module
        self.saved = time.perf_counter()
        self.asked_to_stop = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in _STOP_SIGNALS:  # now, after Lightning, whose own would end an epoch before its validation
                signal.signal(number, self._ask)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        # The end of an epoch is saved after its validation.
        due = self.asked_to_stop or time.perf_counter() - self.saved > _SECONDS_BETWEEN_SAVES
        if due and not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer)

    def _ask(self, number: int, frame: object) -> None:
        if self.asked_to_stop:
            raise KeyboardInterrupt
        self.asked_to_stop = True
        log.info("stopping after this step; what has been learnt so far is kept")

    def _save(self, trainer: pl.Trainer) -> None:
        if self.path is not None:
            self._write(trainer, self.path)
        if self.asked_to_stop:
            raise Interrupted

    def _write(self, trainer: pl.Trainer, path: Path) -> None:
        partial = path.with_name(f"{path.name}{PARTIAL}")  # Lightning writes by name
        trainer.save_checkpoint(partial)
        settle(partial)
        partial.replace(path)
        self.saved = time.perf_counter()
        with at_once(path.with_name("history.jsonl")) as file:
            file.write("".join(json.dumps(row) + "\n" for row in self.module.history).encode())


def _sentence(rows: Sequence[Mapping[str, Any]], epochs: int, chance: float | None) -> str:
    """The last epoch in one line."""
    last = [row for row in rows if row["epoch"] == rows[-1]["epoch"]]
    shown = [[f"{name} {row[name]:.3f}" for name in ("site", "crystal", "error") if name in row] for row in last]
    parts = [f"{row['split']} {', '.join(terms)}" for row, terms in zip(last, shown, strict=True)]
    line = "" if chance is None else f" (knowing nothing: {chance:.3f})"
    rate = max(row.get("crystals_per_second", 0.0) for row in last)
    return f"epoch {last[0]['epoch']}/{epochs}: {'; '.join(parts)}{line}; {rate:.0f} crystals/s"
