"""Training: one LightningModule and one Trainer, for pre-training and for fine-tuning alike.

Random numbers depend only on (seed, epoch) for the order of crystals, and on (seed, step, place in the step) for noise
and false samples, not on what ran before or on the process. So a run that was killed and resumed gives the same weights
as one that was not, and several processes give those of one, up to the rounding of sums.

False samples are drawn within a batch, and a process works on one batch at a time. A step averages the gradients of one
or several batches, which are dealt to the processes in turn.
"""

import logging
import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from crystalmax.crystal import CrystalBatch
from crystalmax.geometry import Geometry
from crystalmax.learning.history import count, sentence, terms_of
from crystalmax.learning.processes import Processes, Share, Steps, quiet
from crystalmax.learning.saving import HISTORY, Saver, goes_on, signals_as_before
from crystalmax.memory import keep_freed_memory
from crystalmax.objectives.base import Objective
from crystalmax.spec import TURN, seeded_weights
from crystalmax.storage.dataset import Dataset, Rows, batches_of_sites
from crystalmax.storage.joined import order

log = logging.getLogger(__name__)

Precision = Literal["32-true", "bf16-mixed"]
Schedule = Literal["constant", "cosine"]
_WARM_UP = 0.05
"""Fraction of all epochs in which the learning rate rises."""
_ENDLESS = "take a lower rate, or try parts of your own with crystalmax.testing; the crystals are"


@dataclass(frozen=True)
class Training:
    """How to train.

    Attributes:
        epochs: Passes over the crystals.
        sites_per_batch: A batch is filled with crystals up to about this many sites.
        learning_rate: Of AdamW (amsgrad).
        weight_decay: Of AdamW.
        clip: Gradients longer than this are shortened to it.
        seed: Seed of the order of crystals, noise and false samples; initial weights were made before.
        precision: "32-true", or "bf16-mixed" for products in bfloat16 on accelerators that are faster at these.
        batches_per_step: Batches whose gradients a step averages, a multiple of the number of processes. The last step
            of an epoch may have fewer; each batch has the same weight in every step.
        weights: Weights of several joined data sets (see `joined.drawn`); every crystal once in each epoch unless
            given.
        schedule: "constant", or "cosine" for a rate that rises over the first twentieth of the epochs and then falls to
            zero along half a cosine (DOI 10.48550/arXiv.1608.03983, without restarts). A run that goes on for more
            epochs than it was planned for follows the curve of the longer run from there.
        encoder_rate: Learning rate of the encoder, as a fraction of that of all other weights.
        averaging: Decay of an exponential moving average of the weights, such as 0.999; training ends with this mean,
            and validation losses are those of it. With 0 there is none.
        patience: Training stops after this many epochs in a row without a lower validation loss, with the weights of
            the epoch with the lowest. With 0 all epochs are trained.
    """

    epochs: int = 15
    sites_per_batch: int = 1200
    learning_rate: float = 8.12e-4
    weight_decay: float = 1e-4
    clip: float = 1.0
    seed: int = 0
    precision: str = "32-true"
    batches_per_step: int = 1
    weights: tuple[float, ...] = ()
    schedule: str = "constant"
    encoder_rate: float = 1.0
    averaging: float = 0.0
    patience: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "sites_per_batch", "learning_rate", "clip", "batches_per_step"):
            if not getattr(self, name) > 0:
                raise ValueError(f"training with {name} = {getattr(self, name)} is impossible; it must be above 0")
        if not all(weight > 0 for weight in self.weights):
            raise ValueError(f"training with weights = {self.weights} is impossible; each must be above 0")
        for name, known in (("precision", get_args(Precision)), ("schedule", get_args(Schedule))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; give one of {', '.join(known)}")
        if not self.encoder_rate >= 0:
            raise ValueError(f"encoder_rate is {self.encoder_rate}; give 0 for an encoder that stays, or more")
        if not 0 <= self.averaging < 1:
            raise ValueError(f"averaging is {self.averaging}; give 0 for none, or less than 1, such as 0.999")
        if self.patience < 0:
            raise ValueError(f"patience is {self.patience}; give 0 for all epochs, or a number of epochs")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; give 0 or more")

    def rate(self, done: float) -> float:
        """The learning rate after this fraction of all epochs."""
        if self.schedule == "constant":
            return self.learning_rate
        if done < _WARM_UP:
            return self.learning_rate * done / _WARM_UP
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP)))


@dataclass(frozen=True)
class Split:
    """Rows of a data set to train on, and rows for the validation loss; neither needs labels."""

    train: Rows
    valid: Rows

    @classmethod
    def random(cls, rows: Rows, valid_fraction: float, seed: int) -> "Split":
        """A random split of these rows."""
        shuffled = np.random.default_rng(seed).permutation(rows)
        n_valid = round(valid_fraction * len(rows))
        return cls(train=np.sort(shuffled[n_valid:]), valid=np.sort(shuffled[:n_valid]))

    def check(self) -> None:
        """Raise a ValueError if there are too few crystals to train on."""
        if len(self.train) < 2:
            raise ValueError(f"training needs at least 2 crystals, but there are {len(self.train)}")


def train(
    objective: Objective,
    data: Dataset,
    split: Split,
    how: Training,
    *,
    geometry: Geometry,
    folder: Path | None = None,
    processes: Processes = Processes(),  # noqa: B008  # frozen
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Train an objective in place.

    With a folder, the state of training is saved there after every epoch and on interruption, and a run that finds such
    a file goes on from it; losses are logged for TensorBoard and as CSV.

    With several devices or nodes this has to be called in each process. If neither torchrun nor SLURM has started them,
    Lightning runs the script once more for each. A saved state can be resumed by any number of processes.

    Args:
        objective: The objective to train.
        data: Crystals to learn from, and for the validation loss.
        split: Which of them are which.
        how: Epochs, rates, batches.
        geometry: Makes the pairs of a batch.
        folder: Folder for state and losses; nothing is saved unless given.
        processes: Devices and machines.
        progress: Whether to show a progress bar.

    Returns:
        A row for each epoch and part of the split: `epoch`, `split`, the mean of each term, `crystals_per_second`.

    Raises:
        ValueError: There are too few crystals, processes cannot share a step, the saved state is damaged or of another
            network, or the terms of the objective cannot be minimised.
        FloatingPointError: A loss is not finite; the message names the crystals of the batch.
        Interrupted: A signal stopped the training; with a folder, its state is saved.
        ConnectionError: Another process has failed or was killed.
    """
    split.check()
    if how.patience and len(split.valid) < 2:
        log.warning("no two crystals are set aside, so there is no loss to watch, and all epochs will be trained")
    processes.check(objective, how.batches_per_step)
    keep_freed_memory()
    objective.train()  # one that was loaded predicts, without dropout and the like
    module = _Module(objective, data, split, how, geometry)
    saved = None if folder is None else folder / "last.ckpt"
    checkpoint = saved if saved is not None and saved.exists() else None
    if checkpoint is not None and not goes_on(checkpoint, module):
        found = "was cut short or damaged, or is of another network"
        raise ValueError(f"{saved} {found}, so training cannot go on from it; remove it to begin anew")
    if checkpoint is None and folder is not None and (folder / HISTORY).exists():
        log.warning("%s is missing, so training begins anew, as if no epoch had been trained", saved)
    callbacks: list[Callback] = [Saver(saved, lambda: module.history)]
    loggers: list[Logger] = []
    if folder is not None:  # steps that are there stay; a run that goes on writes its own into folders 1, 2 and so on
        times = len([*folder.glob("csv/*/metrics.csv"), *folder.glob("csv/metrics.csv")])
        loggers = [CSVLogger(folder, "csv", str(times or "")), TensorBoardLogger(folder, "tensorboard", "")]
    with quiet(), signals_as_before():
        trainer = processes.trainer(
            precision=cast(Precision, how.precision),
            max_epochs=how.epochs,
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            logger=loggers,
            log_every_n_steps=10,
            callbacks=[*callbacks, TQDMProgressBar(leave=False)] if progress else callbacks,
            enable_progress_bar=progress,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        try:
            trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
        except RuntimeError as error:
            if processes.lost(error):
                raise ConnectionError("another process of this training is gone; go on with --resume") from error
            raise
        finally:
            module.turn.close()
            objective.load_state_dict(module.chosen())
    return module.history


class _Module(pl.LightningModule):
    """Connects an objective to Lightning; it does not depend on what the objective is.

    `history` has a row for each epoch and part of the split; sums of an unfinished epoch are saved in checkpoints.
    """

    automatic_optimization = False  # the step is written out here, to free each batch before the next is loaded

    def __init__(self, objective: Objective, data: Dataset, split: Split, how: Training, geometry: Geometry) -> None:
        super().__init__()
        self.objective, self.data, self.split, self.how, self.geometry = objective, data, split, how, geometry
        self.averaged: AveragedModel | None = None
        if how.averaging:
            self.averaged = AveragedModel(objective, multi_avg_fn=get_ema_multi_avg_fn(how.averaging))  # type: ignore[no-untyped-call]
            self.averaged.requires_grad_(False)
        self.turn = ExitStack()
        self.lowest: dict[str, torch.Tensor] = {}  # weights of the epoch with the lowest loss
        self.history: list[dict[str, Any]] = []
        self.sums: dict[str, dict[str, float]] = {}
        self.seconds, self.began = 0.0, time.perf_counter()

    def on_fit_start(self) -> None:
        # From here to the start of training, Lightning notes the state of all generators and puts it back.
        self.turn.enter_context(TURN)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        rate, decay = self.how.learning_rate, self.how.weight_decay
        # Fused: a step over sixty small tensors in 0.3 ms instead of 2. In mixed precision, Lightning does not clip the
        # gradients of fused optimisers.
        fused = self.how.precision == "32-true"
        return torch.optim.AdamW(self._groups(), lr=rate, weight_decay=decay, amsgrad=True, eps=1e-7, fused=fused)

    def _groups(self) -> list[dict[str, Any]]:
        """Parameter groups by learning rate; one group if all have the same, as in old checkpoints."""
        if self.how.encoder_rate == 1:
            return [{"params": list(self.parameters()), "share": 1.0}]
        encoder = cast(nn.Module, self.objective.encoder)  # a part of a module that is trained
        within = {id(parameter) for parameter in encoder.parameters()}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in within]
        return [{"params": list(encoder.parameters()), "share": self.how.encoder_rate}, {"params": rest, "share": 1.0}]

    def train_dataloader(self) -> Steps:
        how, epoch = self.how, self.trainer.current_epoch
        shuffled = order(self.data, self.split.train, how.weights, how.seed, epoch)
        cut = batches_of_sites(self.data.n_sites, how.sites_per_batch, shuffled)
        return Steps(cut, how.batches_per_step, self.trainer.global_rank, self.trainer.world_size)

    def val_dataloader(self) -> Steps:
        rows = self.split.valid
        cut = batches_of_sites(self.data.n_sites, self.how.sites_per_batch, rows) if len(rows) > 1 else []
        n_processes = self.trainer.world_size
        return Steps(cut, n_processes, self.trainer.global_rank, n_processes)

    def transfer_batch_to_device(self, batch: list[Share], device: torch.device, dataloader_idx: int) -> list[Share]:
        return batch  # of which crystals; see `_batch`

    def training_step(self, shares: list[Share], batch_idx: int) -> None:
        optimizer = cast(LightningOptimizer, self.optimizers())
        optimizer.zero_grad()
        sums: dict[str, float] = {}
        for share in shares:
            batch = self._batch(share.rows)
            terms = self._terms(self.objective, batch, self.trainer.global_step, share.place)
            total = torch.stack(list(terms.values())).sum()
            if not torch.isfinite(total):
                values = ", ".join(f"{name} {value.item():.4g}" for name, value in terms.items())
                raise FloatingPointError(f"the loss is not finite ({values}); {_ENDLESS} {', '.join(batch.keys)}")
            # Gradients become a mean over processes; a batch weighs the same in every step.
            weight = share.counts * self.trainer.world_size / self.how.batches_per_step
            with nullcontext() if share is shares[-1] else self._without_exchange():
                self.manual_backward(weight * total)
            count(sums, terms, batch.n_crystals * share.counts)
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        if not torch.isfinite(nn.utils.clip_grad_norm_(weights, self.how.clip)):
            keys = [key for share in shares for key in self.data.batch(share.rows).keys]
            raise FloatingPointError(f"the gradient is not finite; {_ENDLESS} {', '.join(keys)}")
        # A function of the position in the run alone, so that a resumed run has the same rates.
        done = (self.trainer.current_epoch + batch_idx / self.trainer.num_training_batches) / self.how.epochs
        for group in optimizer.param_groups:
            group["lr"] = group.get("share", 1.0) * self.how.rate(done)
        optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.objective)
        means = self._count("train", sums)
        if self.trainer.loggers or self.trainer.progress_bar_callback:  # a tenth of the time of a small step
            self.log_dict(terms_of(means, penalties=False), prog_bar=True, batch_size=1)

    def validation_step(self, shares: list[Share], batch_idx: int) -> None:
        sums: dict[str, float] = {}
        for share in shares:
            batch = self._batch(share.rows)
            # The same false samples every epoch, so that the curve shows the network and not the draw.
            terms = self._terms(self._watched(), batch, -1 - batch_idx * self.trainer.world_size - share.place)
            count(sums, terms, batch.n_crystals * share.counts)
        self._count("valid", sums)

    def on_train_start(self) -> None:
        self.turn.close()
        self._stop_if_in_vain()  # it may have been so before it was resumed

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
        if self.how.patience and (losses := self._watched_losses()) and losses[-1] <= min(losses):
            # Now: in the middle of the next epoch weights are others already.
            self.lowest = {name: tensor.detach().clone() for name, tensor in self._watched().state_dict().items()}
        self._tell(sentence(self.history, self.how.epochs, self.objective.chance))
        self._stop_if_in_vain()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = {"rows": self.history, "sums": self.sums, "seconds": self._seconds()}
        if self.how.patience:
            checkpoint["lowest"] = self.lowest

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint["history"]
        self.history, self.sums, self.seconds = saved["rows"], saved["sums"], saved["seconds"]
        self.lowest = checkpoint.get("lowest", {})

    def chosen(self) -> dict[str, torch.Tensor]:
        """The weights at the end of training."""
        return self.lowest or self._watched().state_dict()

    def _watched(self) -> Objective:
        return self.objective if self.averaged is None else cast(Objective, self.averaged.module)

    def _watched_losses(self) -> list[float]:
        """The validation loss, the sum of all terms, of each epoch so far."""
        return [sum(terms_of(row).values()) for row in self.history if row["split"] == "valid"]

    def _stop_if_in_vain(self) -> None:
        """Stop training if the validation loss has not fallen for `patience` epochs."""
        losses = self._watched_losses()
        if self.how.patience and losses and len(losses) - 1 - (lowest := int(np.argmin(losses))) >= self.how.patience:
            self._tell(f"the watched loss was lowest in epoch {lowest + 1}; training ends with the weights of that one")
            self.trainer.should_stop = True

    def _tell(self, line: str) -> None:
        # Fine-tuning trains many times over.
        log.log(logging.INFO if self.trainer.loggers and self.trainer.is_global_zero else logging.DEBUG, "%s", line)

    def _batch(self, rows: Rows) -> CrystalBatch:
        return self.geometry(self.data.batch(rows).to(self.device))

    def _terms(self, objective: Objective, batch: CrystalBatch, step: int, place: int = 0) -> Mapping[str, Tensor]:
        keys = np.random.SeedSequence([self.how.seed, step % 2**32, place]).generate_state(2, np.uint64).tolist()
        with seeded_weights(keys[1] >> 1):  # dropout and the like draw from the global generator
            return objective.terms(batch, Generator(self.device).manual_seed(keys[0] >> 1))

    def _without_exchange(self) -> AbstractContextManager[None]:
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, DDPStrategy) else nullcontext()

    def _count(self, split: str, found: dict[str, float]) -> dict[str, float]:
        """Add the sums of a step, from all processes, to those of the epoch; returns the means over the step."""
        sums = self.sums.setdefault(split, {})
        if sums and sums.keys() != found.keys():  # before others wait for sums that never come
            before, now = (", ".join(terms_of(each)) for each in (sums, found))
            raise ValueError(f"the objective gave {now} after {before}; give the same terms for every batch")
        if self.trainer.world_size > 1:
            numbers = torch.tensor(list(found.values()), dtype=torch.float64, device=self.device)
            found = dict(zip(found, self.trainer.strategy.reduce(numbers, reduce_op="sum").tolist(), strict=True))
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + value
        return {name: value / found["crystals"] for name, value in terms_of(found).items()}

    def _seconds(self) -> float:
        return self.seconds + time.perf_counter() - self.began
