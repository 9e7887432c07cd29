"""Two real processes train as one does, stop together, and end when one of them is killed."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, nn

from crystalmax.checkpoint import load
from crystalmax.encoders import SiteNet
from crystalmax.learning import processes, saving
from crystalmax.learning.pretraining import pretrain
from crystalmax.learning.processes import Processes, Share, Steps, quiet
from crystalmax.learning.saving import Interrupted
from crystalmax.learning.training import train
from crystalmax.objectives import DeepInfoMax
from crystalmax.objectives.base import Objective
from crystalmax.spec import seeded_weights
from crystalmax.storage.dataset import CrystalDataset, DatasetWriter
from crystalmax.storage.joined import JoinedDataset
from test_training import ALL, DATA, GEOMETRY, HOW, SPLIT, Counting, objective, without

PLANS = {
    "a batch each, 20 steps": replace(HOW, epochs=10, sites_per_batch=6, batches_per_step=2),
    "two batches each": replace(HOW, epochs=3, sites_per_batch=6, batches_per_step=4),
    "fewer batches than processes": replace(HOW, epochs=3, sites_per_batch=100, batches_per_step=2),
}
STOPPED = replace(HOW, epochs=4, sites_per_batch=6, batches_per_step=2)
TESTS = Path(__file__).parent


def choosy():
    """An objective that leaves weights out in most steps, other ones in each."""
    with seeded_weights(0):
        net = SiteNet(site_width=4, crystal_width=5, hidden=8)
        return Leaving(DeepInfoMax(net, constituents=2, families=1))


class Leaving(Objective):
    """Adds a number that only some batches need."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.encoder = inner, inner.encoder
        self.sometimes, self.never = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))

    def forward(self, batch, rng):
        terms = dict(self.inner(batch, rng))
        if rng.initial_seed() % 3 == 0:
            terms["sometimes"] = self.sometimes.square().sum()
        else:
            terms["sometimes"] = torch.zeros(())
        return terms


MADE = {"all weights": objective, "weights left out": choosy}
CASES = [*zip(PLANS, MADE, strict=False), ("fewer batches than processes", "weights left out")]


def run(how, made, folder=None, devices=1):
    return train(made, DATA, SPLIT, how, geometry=GEOMETRY, folder=folder, processes=Processes(devices))


def kept(path, made, history):
    torch.save({"history": without(history, "crystals_per_second"), "weights": made.state_dict()}, path)


def work(home):
    """What each of two processes does."""
    rank, here = int(os.environ["RANK"]), Path(home)
    for number, (plan, name) in enumerate(CASES):
        made = MADE[name]()
        kept(here / f"{number}_{rank}", made, run(PLANS[plan], made, devices=2))
    made = Counting(objective())
    kept(here / f"continued_{rank}", made, run(STOPPED, made, here / "continued", devices=2))  # one process has begun
    counting = Counting(objective(), at=4 if rank else None, act=lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        run(STOPPED, counting, here / "stopped", devices=2)
    except Interrupted:
        (here / f"stopped_{rank}").write_text(str(counting.calls))
    saving._SECONDS_BETWEEN_SAVES = -1.0
    try:
        run(STOPPED, Counting(objective(), at=5 if rank else None, act=die), here / "killed", devices=2)
    except ConnectionError as error:
        sys.exit(str(error))


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def wait_in_vain(home):
    """What a second process does whose first one has ended before training."""
    processes.PATIENCE = timedelta(seconds=1)
    try:
        run(STOPPED, objective(), devices=2)
    except ConnectionError as error:
        sys.exit(str(error))


def start(home, task=work, ranks=("0", "1")):
    """Two processes, as torchrun starts them, or one of these."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    shared |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0", "OMP_NUM_THREADS": "1"}
    script = "import sys; sys.path.insert(0, sys.argv[1]); import test_processes as here; "
    script += f"here.{task.__name__}(sys.argv[2])"
    for rank in ranks:
        environment = {**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank}
        with (home / f"{rank}.log").open("wb") as log:
            command = [sys.executable, "-c", script, str(TESTS), str(home)]
            yield subprocess.Popen(command, env=environment, stdout=log, stderr=log)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("two")
    with pytest.raises(Interrupted):
        run(STOPPED, Counting(objective(), at=3, act=lambda: os.kill(os.getpid(), signal.SIGTERM)), home / "continued")
    started = list(start(home))
    try:
        codes = [process.wait(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    (home / "codes.json").write_text(json.dumps(codes))
    return home


def test_the_job_reached_its_end(home):
    assert (home / "stopped_1").exists(), (home / "0.log").read_text() + (home / "1.log").read_text()


def assert_same(found, made, how):
    """What was found is what one process gives: losses to 1e-6."""
    history = without(run(how, made), "crystals_per_second")
    assert len(found["history"]) == len(history)
    for row, expected in zip(found["history"], history, strict=True):
        assert row == pytest.approx(expected, abs=1e-6)
    for name, tensor in made.state_dict().items():
        # A wrong gradient would move it by the rate, 1e-2. Where the right one is 0, rounding does, by 4e-4 so far.
        torch.testing.assert_close(found["weights"][name], tensor, atol=1e-3, rtol=0)


def from_both(home, name):
    return [torch.load(home / f"{name}_{rank}", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("number", range(len(CASES)), ids=map(", ".join, CASES))
def test_losses_and_weights_are_those_of_one_process(number, home):
    plan, name = CASES[number]
    for found in from_both(home, number):
        assert_same(found, MADE[name](), PLANS[plan])


def test_a_run_that_one_process_began_two_can_end(home):
    for found in from_both(home, "continued"):
        assert_same(found, Counting(objective()), STOPPED)


def assert_resumes(folder):
    made = Counting(objective())
    history = run(STOPPED, made, folder)
    found = {"history": without(history, "crystals_per_second"), "weights": made.state_dict()}
    assert_same(found, Counting(objective()), STOPPED)


def test_a_signal_to_one_stops_both_after_the_same_step_and_one_process_can_end_the_run(home):
    assert [(home / f"stopped_{rank}").read_text() for rank in (0, 1)] == ["4", "4"]
    assert torch.load(home / "stopped" / "last.ckpt", weights_only=True)["global_step"] == 3
    assert_resumes(home / "stopped")


def test_where_one_is_killed_the_other_ends_and_nothing_is_lost(home):
    first, second = json.loads((home / "codes.json").read_text())
    assert second == -signal.SIGKILL
    assert first == 1
    assert "another process of this training is gone; go on with --resume" in (home / "0.log").read_text()
    assert torch.load(home / "killed" / "last.ckpt", weights_only=True)["global_step"] == 3
    assert_resumes(home / "killed")


def test_where_the_first_ended_before_training_the_other_does_not_wait_for_long(tmp_path):
    """It waited for half an hour."""
    (second,) = start(tmp_path, wait_in_vain, ranks=("1",))
    try:
        assert second.wait(timeout=60) == 1
    finally:
        second.kill()
    told = (tmp_path / "1.log").read_text().splitlines()
    assert told[-1] == "another process of this training is gone; go on with --resume"


def test_batches_are_dealt_in_turn_and_all_take_part_in_every_step():
    batches = [np.array([i]) for i in range(6)]
    dealt = [list(Steps(batches, 4, number, 2)) for number in (0, 1)]
    assert [[(share.place, *share.rows) for share in step] for step in dealt[0]] == [[(0, 0), (2, 2)], [(0, 4)]]
    assert [[(share.place, *share.rows) for share in step] for step in dealt[1]] == [[(1, 1), (3, 3)], [(1, 5)]]
    (lonely,) = Steps(batches[:1], 2, 1, 2)
    assert lonely == [Share(0, batches[0], counts=False)]
    halfway = Steps(batches, 4, 0, 2)
    halfway.load_state_dict({"next": 1})
    assert len(list(halfway)) == 1
    whole = Steps(batches, 4, 0, 2)
    assert [whole.state_dict()["next"] for _ in whole] == [1, 2]
    assert (whole.state_dict(), len(list(whole))) == ({"next": 0}, 2)  # the next epoch begins anew


def test_announcements_are_as_loud_afterwards_as_before(caplog):
    caplog.set_level("INFO", logger="lightning.pytorch")
    with suppress(KeyError), quiet():
        assert logging.getLogger("lightning.pytorch").level == logging.ERROR
        raise KeyError
    assert logging.getLogger("lightning.pytorch").level == logging.INFO


def test_only_of_several_processes_another_can_be_lost():
    broken, ours = RuntimeError("[gloo/transport] Connection closed by peer"), RuntimeError("shapes differ")
    assert [Processes(2).lost(error) for error in (broken, distributed.DistError(), ours)] == [True, True, False]
    assert not Processes(1).lost(broken)


class Sized(Objective):
    """The derivative of its loss is the number of crystals in the batch."""

    def __init__(self):
        super().__init__()
        self.encoder = objective().encoder.requires_grad_(False)
        self.weight = nn.Parameter(torch.zeros(()))
        self.sizes, self.gradients = [], []
        self.weight.register_post_accumulate_grad_hook(lambda weight: self.gradients.append(weight.grad.item()))

    def forward(self, batch, rng):
        self.sizes.append(batch.n_crystals)
        return {"site": self.weight * batch.n_crystals}


def test_a_step_has_the_mean_of_the_gradients_of_its_batches():
    made = Sized()
    train(
        made,
        DATA,
        replace(SPLIT, valid=ALL[:0]),
        replace(HOW, epochs=1, sites_per_batch=6, batches_per_step=2),
        geometry=GEOMETRY,
    )
    assert len(made.sizes) % 2  # a batch is left over, and weighs what it would have weighed before
    for i, gradient in enumerate(made.gradients):
        assert gradient == pytest.approx(sum(made.sizes[i // 2 * 2 : i + 1]) / 2)


RECIPE = """
[objective]
use = "DeepInfoMax"
encoder = { use = "SiteNet", site_width = 4, crystal_width = 5, hidden = 8 }

[training]
epochs = 2
sites_per_batch = 8
"""


def test_the_command_starts_its_processes_itself(tmp_path):
    crystals = list(DATA)
    for name, some in (("a", crystals[:4]), ("b", crystals[4:])):
        with DatasetWriter(tmp_path / name, provenance={}) as writer:
            for crystal in some:
                writer.add(crystal)
    recipe, script, two, one = (tmp_path / name for name in ("recipe.toml", "script.py", "two", "one"))
    recipe.write_text(RECIPE)
    script.write_text("from crystalmax.__main__ import main\n\nmain()\n")
    asked = [script, "pretrain", tmp_path / "a", tmp_path / "b", "--out", two, "--recipe", recipe, "--devices", 2]
    asked += ["--batches-per-step", 2, "--weights", 2, "--weights", 1]
    environment = {name: value for name, value in os.environ.items() if name != "TORCH_CPP_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, *map(str, asked)], capture_output=True, text=True, env={**environment, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained encoder in") == 1
    assert len(done.stderr.splitlines()) == 1 + 2  # how many crystals, and a line an epoch
    data = JoinedDataset(tuple(CrystalDataset.open(tmp_path / name) for name in "ab"))
    pretrain(data, one, recipe=recipe, batches_per_step=2, weights=[2.0, 1.0])
    found, expected = (load(folder).objective.state_dict() for folder in (two, one))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=2e-5, rtol=0)
    plans = [json.loads((folder / "run.json").read_text()) for folder in (two, one)]
    assert plans[0] == plans[1]


@pytest.mark.parametrize(("devices", "nodes"), [(0, 1), (1, -1)])
def test_no_process_at_all_is_refused(devices, nodes):
    with pytest.raises(ValueError, match="give at least 1"):
        Processes(devices, nodes)


def test_what_processes_cannot_share_is_refused():
    with pytest.raises(ValueError, match=r"2 processes cannot share a step of 3 batches .* of 2, or take so many"):
        run(replace(HOW, batches_per_step=3), objective(), devices=2)
    made = objective()
    made.encoder.extra = nn.BatchNorm1d(3)
    with pytest.raises(ValueError, match=r"encoder.extra, a BatchNorm1d, keeps running statistics"):
        run(replace(HOW, batches_per_step=2), made, devices=2)
    run(replace(HOW, epochs=1), made)


def test_another_number_of_processes_than_was_started_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="3 processes were started, but 1 devices on each of 2 nodes are 2; say by"):
        Processes(1, 2).is_first()
