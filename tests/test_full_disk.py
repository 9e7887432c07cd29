"""A disk that becomes full at any write: nothing half-written is taken for whole, and nothing finished is lost."""

import errno
import os
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

import test_training as training
from crystalmax.cells import canonical
from crystalmax.encoders import SiteNet
from crystalmax.geometry import AllPairs
from crystalmax.integrity import verify
from crystalmax.prediction import finetune
from crystalmax.reading.ingest import canonical_records, ingest
from crystalmax.regressor import CrystalRegressor
from crystalmax.spec import seeded_weights
from crystalmax.storage.writing import alone
from crystalmax.study import runner
from crystalmax.study.cell import Cell, Result
from crystalmax.study.preparation import Source, prepare
from crystalmax.study.settings import BUDGETS
from crystals import rock_salt, some_crystals
from disks import full_disk
from labelled import table_of
from test_training import saving_every_step, uninterrupted  # noqa: F401  # fixtures


def writes_of(work):
    """How many writes the whole work takes."""
    with full_disk(10**9) as disk:
        work()
    return disk.writes


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.6, 0.99])
def test_ingest(fraction, tmp_path):
    def work(name):
        return ingest(canonical_records([*some_crystals(), "absent.cif"]), tmp_path / name, made_from=["hand"])

    nth = 1 + int(fraction * writes_of(partial(work, "whole")))
    with full_disk(nth) as disk, pytest.raises(OSError, match=r"No space left on device: '.*cut"):
        work("cut")
    assert disk.full
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
    work("cut")
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of TensorBoard's own thread
@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.5, 0.8, 0.97])
def test_pretraining(fraction, tmp_path, uninterrupted, saving_every_step):  # noqa: F811
    nth = 1 + int(fraction * writes_of(lambda: training.run(tmp_path / "whole")))
    with full_disk(nth) as disk, pytest.raises(OSError, match="No space left"):
        training.run(tmp_path / "cut")
    assert disk.full
    if (tmp_path / "cut" / "last.ckpt").exists():
        torch.load(tmp_path / "cut" / "last.ckpt", weights_only=True)
    training.assert_same(training.run(tmp_path / "cut"), uninterrupted)


@pytest.mark.parametrize("nth", [1, 2])
def test_fine_tuning(nth, tmp_path):
    with seeded_weights(0):
        encoder = SiteNet(site_width=4, crystal_width=6, hidden=8)
    regressor = CrystalRegressor(encoder, geometry=AllPairs(max_sites=12), epochs=1)
    crystals = [
        type(one)(**{**vars(canonical(one)), "targets": {"size": one.volume}, "key": f"{one.key} {copy}"})
        for copy in range(2)
        for one in some_crystals()
    ]
    with full_disk(nth) as disk, pytest.raises(OSError, match=r"No space left on device: '.*model"):
        finetune(crystals, "size", regressor, tmp_path / "model")
    assert disk.full
    assert list(tmp_path.iterdir()) == []
    finetune(crystals, "size", regressor, tmp_path / "model")
    assert verify(tmp_path / "model").faults == ()


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_cell_of_a_study(nth, tmp_path):
    def found():
        return Result(pd.DataFrame({"part": ["toy"], "mae": [0.5]}), {"numbers": np.arange(30.0)})

    cells = [Cell("toy/one", found)]
    runner.commit()
    with full_disk(nth) as disk:
        (outcome,) = runner.run(cells, tmp_path)
    assert disk.full
    assert "No space left" in outcome.error
    assert runner.names_in(tmp_path) == []
    (outcome,) = runner.run(cells, tmp_path)
    assert outcome.error == ""
    assert len(runner.rows_of(tmp_path)) == 1


@pytest.mark.parametrize(("number", "named"), [(errno.ENOSPC, True), (errno.EFBIG, True), (errno.EIO, False)])
def test_what_was_being_written_is_named_where_the_system_names_nothing(number, named, tmp_path):
    with pytest.raises(OSError, match=os.strerror(number)) as caught, alone(tmp_path / "run", tmp_path / "lock"):
        raise OSError(number, os.strerror(number))
    assert caught.value.filename == (str(tmp_path / "run") if named else None)
    assert ("(`ulimit -f` says how large files may be)" in str(caught.value)) == (number == errno.EFBIG)


def test_what_a_study_prepares(tmp_path):
    salts = [rock_salt(edge, key=f"salt {edge}") for edge in (5.0, 5.5, 6.0)]
    (tmp_path / "tables").mkdir()
    table_of(salts, edge=[5.0, 5.5, 6.0]).to_parquet(tmp_path / "tables" / "salts.parquet")
    sources = [Source("salts", properties={"edge": "A"})]
    for nth in (1, 4, 9):
        with full_disk(nth) as disk, pytest.raises(OSError, match=r"No space left on device: '.*salts"):
            prepare(sources, str(tmp_path / "tables"), tmp_path / "data", BUDGETS["tiny"])
        assert disk.full
        assert list((tmp_path / "data").iterdir()) == []
    (material,) = prepare(sources, str(tmp_path / "tables"), tmp_path / "data", BUDGETS["tiny"])
    assert len(material.data) == 3
    assert verify(tmp_path / "data" / "salts").faults == ()
