"""Saving the state of a training, and stopping it by a signal."""

import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import nn

from crystalmax.storage.writing import PARTIAL, at_once, read_packed, settle

log = logging.getLogger(__name__)

HISTORY = "history.jsonl"
"""File with one line an epoch and part of the split."""

_SECONDS_BETWEEN_SAVES = 60.0
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """Training was asked to stop by a signal, and did so between two steps.

    Like `KeyboardInterrupt` no `Exception`, which a cross-validation takes for a failed fit, and goes on to the next.
    """


def _handle(handlers: Mapping[signal.Signals, Any]) -> None:
    """Install these signal handlers, which Python allows in the main thread only."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def signals_as_before() -> Iterator[None]:
    """Restore the handlers of `_STOP_SIGNALS` at the end."""
    handlers = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        _handle(handlers)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Inside, a signal to stop raises `Interrupted` at once, instead of ending the process and its workers."""

    def stop(number: int, frame: object) -> None:
        raise Interrupted

    with signals_as_before():
        _handle(dict.fromkeys(_STOP_SIGNALS, stop))
        yield


def goes_on(saved: Path, module: nn.Module) -> bool:
    """Whether training of this module can go on from a file: it is complete, and has weights of the same shapes."""
    try:
        read_packed(saved)
        state = torch.load(saved, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
        found = {name: weights.shape for name, weights in state.items()}
    except Exception:  # of whichever type for a file that holds something else
        return False
    return found == {name: weights.shape for name, weights in module.state_dict().items()}


class Saver(Checkpoint):
    """Saves at the end of an epoch, once a minute within it, and between two steps when asked to stop.

    Where one of several processes is asked, all save and stop after the same step. A signal never cuts a step in two:
    what is saved is always the state between steps. Without a path it only stops, by `Interrupted`: Lightning itself
    would end quietly, and a network that is half trained would be taken for a trained one.
    """

    def __init__(self, path: Path | None, history: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
        self.path, self.history = path, history
        self.saved = time.perf_counter()
        self.asked_to_stop = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals."""
        # Installed after Lightning's own handlers, which would end an epoch before its validation.
        _handle(dict.fromkeys(_STOP_SIGNALS, self._ask))

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        """Save if it is time, and stop if that was asked for."""
        # The end of an epoch is saved after its validation.
        due = self.asked_to_stop or time.perf_counter() - self.saved > _SECONDS_BETWEEN_SAVES
        if trainer.strategy.reduce_boolean_decision(due, all=False) and not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save."""
        self._save(trainer)

    def _ask(self, number: int, frame: object) -> None:
        if self.asked_to_stop:
            raise KeyboardInterrupt
        self.asked_to_stop = True
        log.info("stopping after this step%s", "; what has been learnt so far is kept" if self.path else "")

    def _save(self, trainer: pl.Trainer) -> None:
        if self.path is not None:
            partial = self.path.with_name(f"{self.path.name}{PARTIAL}")  # Lightning writes by name
            trainer.save_checkpoint(partial)  # all processes take part, the first writes
            self.saved = time.perf_counter()
            if trainer.is_global_zero:
                settle(partial)
                partial.replace(self.path)
                with at_once(self.path.with_name(HISTORY)) as file:
                    file.write("".join(json.dumps(row) + "\n" for row in self.history()).encode())
        if trainer.strategy.reduce_boolean_decision(self.asked_to_stop, all=False):
            raise Interrupted
