"""Progress of commands, as shown on a terminal."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, track

if TYPE_CHECKING:
    from crystalmax.study.runner import Forecast

One = TypeVar("One")


def counted(things: Iterable[One], name: str, total: int | None = None) -> Iterable[One]:
    """The same things, with a count on a terminal, and the time left if the total is known."""
    console = Console(stderr=True)
    return track(things, name, total=total, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def progress() -> Iterator[Callable[["Forecast"], None]]:
    """A progress bar with the time left on a terminal; elsewhere a line in the log about once a minute."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("")
        told = -math.inf

        def report(forecast: "Forecast") -> None:
            nonlocal told
            bar.update(task, completed=forecast.done, total=forecast.total, description=forecast.sentence)
            if not console.is_terminal and (time.monotonic() - told > 60 or forecast.done == forecast.total):
                told = time.monotonic()
                logging.getLogger(__name__).info("%d of %d cells; %s", forecast.done, forecast.total, forecast.sentence)

        yield report
