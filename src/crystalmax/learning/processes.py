"""How the work of training is shared among several processes, and which part of it this process does."""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed, nn

from crystalmax.storage.dataset import Rows

PATIENCE = timedelta(minutes=10)
"""How long a process waits for another, before training and in every step, until it takes that one for gone."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's announcements."""
    with ExitStack() as stack, warnings.catch_warnings():
        for logger in map(logging.getLogger, ("lightning.pytorch", "lightning.fabric")):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", "Grad strides do not match")  # columns of one number, stored either way
        yield


@dataclass(frozen=True)
class Processes:
    """The processes that share a training; they are started by Lightning, by torchrun or by SLURM.

    Attributes:
        devices: Processes on each machine, one a GPU, or any number on CPU.
        nodes: Machines.
        accelerator: As Lightning names it.
    """

    devices: int = 1
    nodes: int = 1
    accelerator: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("devices", "nodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1")

    @property
    def number(self) -> int:
        """Number of processes on all machines together."""
        return self.devices * self.nodes

    def is_first(self) -> bool:
        """Whether this is the process that writes files.

        Raises:
            ValueError: Another number of processes was started than was stated, or the devices do not exist.
        """
        if (started := int(os.environ.get("WORLD_SIZE", self.number))) != self.number:
            raise ValueError(
                f"{started} processes were started, but {self.devices} devices on each of {self.nodes} nodes are "
                f"{self.number}; say by --devices and --nodes what you started"
            )
        if self.number == 1 and self.accelerator == "cpu":
            return True
        # Lightning knows which devices there are, who may have started it, and where each says which process this is.
        with quiet():
            return self.trainer(logger=False, enable_checkpointing=False).is_global_zero

    def lost(self, error: RuntimeError) -> bool:
        """Whether this error means that another process has ended; only NCCL has an exception type for that."""
        return self.number > 1 and (isinstance(error, distributed.DistError) or "gloo" in str(error))

    def check(self, objective: nn.Module, batches_per_step: int) -> None:
        """Raise a ValueError for an objective or a step that several processes cannot share."""
        if batches_per_step % self.number:
            raise ValueError(
                f"{self.number} processes cannot share a step of {batches_per_step} batches evenly; set "
                f"batches_per_step to a multiple of {self.number}, or take so many processes as divide it"
            )
        for name, part in objective.named_modules() if self.number > 1 else ():
            if getattr(part, "running_mean", None) is not None:
                raise ValueError(
                    f"{name}, a {type(part).__name__}, keeps running statistics, which would differ between the "
                    f"{self.number} processes; train in one, or take a layer without them, such as LayerNorm"
                )

    def trainer(self, **options: Any) -> pl.Trainer:  # noqa: ANN401  # as Lightning has them
        """Lightning's trainer for these processes.

        Raises:
            ValueError: The devices do not exist.
        """
        if self.number > 1:  # a step of some objectives does not use all weights; buffers are constants
            options["strategy"] = DDPStrategy(find_unused_parameters=True, broadcast_buffers=False, timeout=PATIENCE)
        options |= {"accelerator": self.accelerator, "devices": self.devices, "num_nodes": self.nodes}
        try:
            return pl.Trainer(use_distributed_sampler=False, **options)
        except MisconfigurationException as error:
            raise ValueError(
                f"{self.devices} devices of accelerator {self.accelerator!r} cannot be used: {error}"
            ) from None


class Share(NamedTuple):
    """A batch that this process works on.

    Attributes:
        place: Number of the batch within its step.
        rows: Its crystals.
        counts: Whether its losses and gradients count; false if another process works on the same batch.
    """

    place: int
    rows: Rows
    counts: bool


class Steps:
    """The steps of an epoch, each as the batches that one process works on; Lightning saves and restores the position.

    The batches of a step are dealt to the processes in turn. In the last step, a process that gets none works on the
    first batch again, without counting it, since all processes have to take part in every step.

    Args:
        batches: Rows of each batch of the epoch.
        batches_per_step: Number of batches in a step.
        number: Number of this process, from 0 on.
        n_processes: Number of processes.
    """

    def __init__(self, batches: list[Rows], batches_per_step: int, number: int, n_processes: int) -> None:
        self.batches, self.batches_per_step = batches, batches_per_step
        self.number, self.n_processes = number, n_processes
        self.next = 0

    def __len__(self) -> int:
        return -(-len(self.batches) // self.batches_per_step)

    def __iter__(self) -> Iterator[list[Share]]:
        while self.next < len(self):
            begin = self.next * self.batches_per_step
            self.next += 1
            step = [Share(i, rows, True) for i, rows in enumerate(self.batches[begin:][: self.batches_per_step])]
            yield step[self.number :: self.n_processes] or [step[0]._replace(counts=False)]
        self.next = 0

    def state_dict(self) -> dict[str, int]:
        """The number of steps so far, the same in all processes."""
        return {"next": self.next}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on after this number of steps."""
        self.next = state["next"]
