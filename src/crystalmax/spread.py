"""Work spread over processes of this machine, or over whatever engine joblib is told to use."""

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
"""Items a process that are given out before all of them have come back: the most that wait in memory."""
_LIMITS, _LIMITING = list[Any](), Lock()


def in_order(work: Callable[[Item], Result], items: Iterable[Item], n_jobs: int | None) -> Iterator[Result]:
    """What `map(work, items)` gives, in that order, by several processes.

    The engine is the one that `joblib.parallel_config` names when this is called, such as Dask or Ray. Items are given
    out in rounds: left alone, joblib reads on as long as workers are idle, however slowly the results are taken.

    Args:
        work: What is done with each item; it must be possible to pickle it.
        items: Read as they are needed.
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
    """Inside, products of matrices take one thread. The limit is of the process: whoever leaves last, lifts it."""
    with _LIMITING:
        _LIMITS.append(threadpool_limits(1))
    try:
        yield
    finally:
        with _LIMITING:
            _LIMITS.pop().restore_original_limits()
