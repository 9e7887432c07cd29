"""Work in several processes of this machine, or in another engine that joblib is configured to use."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from threading import Lock
from typing import Any, TypeVar

from joblib import Parallel, delayed, effective_n_jobs
from joblib.externals.loky.process_executor import TerminatedWorkerError
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

Item = TypeVar("Item")
Result = TypeVar("Result")

ROUND = 32
"""Items for each process that are given out in one round, which limits how many results wait in memory."""
_LIMITS, _LIMITING = list[Any](), Lock()


def in_order(work: Callable[[Item], Result], items: Iterable[Item], n_jobs: int | None) -> Iterator[Result]:
    """The results of `map(work, items)`, in that order, by several processes.

    The engine is the one that `joblib.parallel_config` names when this is called, such as Dask or Ray. Items are given
    out in rounds, since joblib would read on as long as workers are idle, however slowly results are used.

    Args:
        work: A function of an item, which can be pickled.
        items: The items, which are read as they are needed.
        n_jobs: Processes, -1 for one a core; None for what `joblib.parallel_config` says, or else one.
    """
    try:
        parallel = Parallel(n_jobs=n_jobs, return_as="generator")
    except ValueError:  # this engine, as Ray, gives results all at once
        parallel = Parallel(n_jobs=n_jobs)
    try:
        most = ROUND * effective_n_jobs(n_jobs)
    except ValueError:
        raise ValueError("the number of jobs is 0; give 1 or more processes, or -1 for one a core") from None
    return _rounds(parallel, map(delayed(work), items), most)


def _rounds(parallel: Callable[..., Iterable[Result]], tasks: Iterator[Any], most: int) -> Iterator[Result]:
    try:
        with parallel:  # type: ignore[attr-defined]  # joblib has no types; workers stay from round to round
            for first in tasks:
                yield from parallel(chain([first], islice(tasks, most - 1)))
    except TerminatedWorkerError:
        raise ChildProcessError("a worker was ended, most likely as memory ran out; give fewer jobs") from None


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, linear algebra uses one thread. The limit is for the whole process; the last to leave lifts it."""
    with _LIMITING:
        _LIMITS.append(threadpool_limits(1))
    try:
        yield
    finally:
        with _LIMITING:
            _LIMITS.pop().restore_original_limits()
