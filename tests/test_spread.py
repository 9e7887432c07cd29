"""Work by several processes: the same results, in order, whichever engine does it and however slowly they are taken."""

import math
import os
import signal
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config
from sklearn.linear_model import Ridge

from crystalmax import featurizer, spread
from crystalmax.featurizer import CrystalFeaturizer
from crystalmax.fingerprint import fingerprint_of
from crystalmax.integrity import verify
from crystalmax.judging.evaluation import FeatureSet, RepeatedFolds, evaluate
from crystalmax.reading import sources
from crystalmax.reading.duplicates import without_duplicates
from crystalmax.reading.ingest import canonical_records, ingest
from crystalmax.spread import in_order, one_thread
from crystals import rock_salt, some_crystals
from labelled import cif_of

SALT = cif_of(rock_salt())


@contextmanager
def dask_cluster():
    distributed = pytest.importorskip("distributed", reason="dask[distributed] is not installed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster),
        parallel_config(backend="dask", n_jobs=-1),
    ):
        yield


@contextmanager
def ray_cluster():
    ray = pytest.importorskip("ray", reason="ray is not installed")
    from ray.util.joblib import register_ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        register_ray()
        with parallel_config(backend="ray", n_jobs=2):
            yield
    finally:
        ray.shutdown()


@contextmanager
def processes():
    with parallel_config(backend="loky", n_jobs=2):
        yield


@contextmanager
def threads():
    with parallel_config(backend="threading", n_jobs=3):
        yield


ENGINES = {"processes": processes, "threads": threads, "dask": dask_cluster, "ray": ray_cluster}


def table():
    """CIF texts of which some cannot be read and some occur again, with labels."""
    texts = [SALT, "junk", SALT.replace("Cl", "Br"), SALT, ""] * 20
    return pd.DataFrame({"id": [f"m{n % 70}" for n in range(100)], "cif": texts, "gap": np.arange(100) / 7})


def everything(folder):
    """Bytes of a data set, of one without duplicates, of statistics and vectors, and of scores."""
    marked = without_duplicates(canonical_records(table(), mark=fingerprint_of))
    for name, records in {"all": canonical_records(table()), "unique": marked}.items():
        ingest(records, folder / name, made_from=["hand"])
        assert verify(folder / name).faults == ()
    values = np.random.default_rng(0).normal(size=(40, 3))
    sets, plan = {"numbers": FeatureSet(values, "baseline")}, RepeatedFolds(2, n_draws=2)
    return {
        **{path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")},
        "numbers": CrystalFeaturizer.from_pretrained(statistics=True).transform([*some_crystals(), SALT] * 3).tobytes(),
        "scores": evaluate(sets, values.sum(1), models={"ridge": Ridge()}, plan=plan).table.to_csv(),
    }


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """What one process makes, in chunks that are small enough for several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "CHUNK", 8)
        patch.setattr(featurizer, "CHUNK", 4)
        yield everything(tmp_path_factory.mktemp("serial"))


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_writes_the_bytes_of_one_process(engine, serial, tmp_path):
    with ENGINES[engine]():
        assert list(in_order(math.sqrt, range(300), None)) == list(map(math.sqrt, range(300)))
        assert everything(tmp_path) == serial
    assert b"duplicate of 'm0', and their labels differ: gap is" in serial[Path("unique/skipped.csv")]


def test_no_process_at_all_is_refused_in_our_words():
    with pytest.raises(ValueError, match="the number of jobs is 0; give 1 or more processes, or -1 for one a core"):
        list(in_order(math.sqrt, range(3), 0))


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_results_that_wait_are_bounded_however_slowly_they_are_taken(n_jobs, monkeypatch):
    monkeypatch.setattr(spread, "ROUND", 4)
    lock, done = threading.Lock(), []

    def work(number):
        with lock:
            done.append(number)
        return number

    with parallel_config(backend="threading"):
        results = in_order(work, iter(range(200)), n_jobs)
        for taken in range(200):
            assert next(results) == taken
            time.sleep(0.002)  # a slow consumer
            assert len(done) <= taken + 4 * n_jobs
    assert next(results, None) is None


def test_an_error_of_a_worker_reaches_the_caller():
    with parallel_config(backend="threading", n_jobs=2), pytest.raises(ZeroDivisionError):
        list(in_order(lambda number: 1 // (number - 50), range(100), None))


def killed(number):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(os.name != "posix", reason="no such signal")
def test_a_worker_that_was_killed_is_told_of_in_a_sentence():
    with pytest.raises(ChildProcessError, match="a worker was ended, most likely as memory ran out; give fewer jobs"):
        list(in_order(killed, range(4), 2))


def test_no_workers_are_asked_before_results_are():
    assert next(in_order(lambda crystal: crystal.key, iter([rock_salt()]), 1)) == rock_salt().key


def test_a_limit_of_threads_goes_with_the_last_who_needs_it_in_whatever_order_they_leave(monkeypatch):
    class Limit:
        threads = 8

        def __init__(self, most):
            self.before, Limit.threads = Limit.threads, most

        def restore_original_limits(self):
            Limit.threads = self.before

    monkeypatch.setattr(spread, "threadpool_limits", Limit)
    with ExitStack() as last, ExitStack() as first:
        first.enter_context(one_thread())
        last.enter_context(one_thread())
        first.close()
        assert Limit.threads == 1
    assert Limit.threads == 8
