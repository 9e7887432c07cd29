"""Training: the same seed gives the same weights, however often it was interrupted, killed and resumed."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Barrier, BrokenBarrierError, Event

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from crystalmax.encoders import SiteNet
from crystalmax.geometry import AllPairs
from crystalmax.learning import saving
from crystalmax.learning.saving import Interrupted
from crystalmax.learning.training import Split, Training, train
from crystalmax.objectives import DeepInfoMax, Reconstruction
from crystalmax.objectives.base import Objective
from crystalmax.objectives.regularizers import NoRegularizer
from crystalmax.samples.negatives import OtherCrystals
from crystalmax.spec import seeded_weights
from crystalmax.statistics.intrinsic import Density
from crystalmax.storage.dataset import CrystalDataset, batches_of_sites
from crystals import perovskite, pure, rock_salt
from encoders import Dropping

GEOMETRY = AllPairs(max_sites=6)
HOW = Training(epochs=3, sites_per_batch=14, learning_rate=1e-2, seed=4)


def dataset():
    salts = [rock_salt(a, kinds) for a, kinds in [(5.64, ("Na", "Cl")), (6.29, ("K", "Cl")), (4.21, ("Mg", "O"))]]
    salts += [rock_salt(a, kinds) for a, kinds in [(4.03, ("Li", "F")), (5.99, ("Pb", "S")), (4.81, ("Ca", "O"))]]
    oxides = [perovskite(a, pure(*kinds)) for a, *kinds in [(3.9, "Sr", "Ti", "O"), (4.0, "Ba", "Ti", "O")]]
    oxides += [perovskite(a, pure(*kinds)) for a, *kinds in [(4.1, "K", "Mg", "F"), (3.8, "La", "Al", "O")]]
    return CrystalDataset.from_crystals([replace(one, key=f"crystal {i}") for i, one in enumerate(salts + oxides)])


DATA = dataset()
ALL = np.arange(len(DATA))
SPLIT = Split(train=ALL[1:9], valid=ALL[[0, 9]])
STEPS = 2  # an epoch, see below


def objective(seed=0):
    with seeded_weights(seed):
        return DeepInfoMax(SiteNet(site_width=4, crystal_width=5, hidden=8))


def run(folder=None, *, how=HOW, split=SPLIT, made=None):
    """Train a fresh objective, with or without a folder to resume from."""
    made = made or objective()
    return made, train(made, DATA, split, how, geometry=GEOMETRY, folder=folder)


def without(history, column):
    return [{name: value for name, value in row.items() if name != column} for row in history]


def assert_same(one, other):
    (made, history), (twin, twin_history) = one, other
    for name, weights in made.state_dict().items():
        assert torch.equal(weights, twin.state_dict()[name]), name
    assert without(history, "crystals_per_second") == without(twin_history, "crystals_per_second")


@pytest.fixture(scope="module")
def uninterrupted():
    return run()


@pytest.fixture
def saving_every_step(monkeypatch):
    monkeypatch.setattr(saving, "_SECONDS_BETWEEN_SAVES", -1.0)


def test_an_epoch_here_has_several_steps():
    for epoch in range(HOW.epochs):
        order = np.random.default_rng([HOW.seed, epoch]).permutation(SPLIT.train)
        assert len(batches_of_sites(DATA.n_sites, HOW.sites_per_batch, order)) == STEPS


def test_the_same_seed_gives_the_same_weights_whatever_else_drew_random_numbers(uninterrupted):
    torch.manual_seed(123)
    state = torch.get_rng_state()
    assert_same(run(), uninterrupted)
    assert torch.equal(torch.get_rng_state(), state)


def test_another_seed_gives_other_weights(uninterrupted):
    made, _ = run(how=replace(HOW, seed=5))
    assert not torch.equal(made.encoder.to_site.weight, uninterrupted[0].encoder.to_site.weight)


def test_watching_the_losses_changes_nothing(uninterrupted):
    made, history = run(split=replace(SPLIT, valid=ALL[:0]))
    assert {row["split"] for row in history} == {"train"}
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), uninterrupted[0].parameters(), strict=True))


def test_history_has_a_row_an_epoch_and_part_of_the_split(uninterrupted):
    _, history = uninterrupted
    parts = {(row["epoch"], row["split"]) for row in history}
    assert len(history) == len(parts) == 6
    assert parts == {(epoch, split) for epoch in (1, 2, 3) for split in ("train", "valid")}
    for row in history:
        assert {"site", "crystal", "site_penalty", "crystal_penalty"} < set(row)
        assert ("crystals_per_second" in row) == (row["split"] == "train")


class Counting(Objective):
    """An objective whose term says how many crystals a batch has, and which may act at a chosen call."""

    def __init__(self, inner, at=None, act=None):
        super().__init__()
        self.inner, self.encoder, self.at, self.act, self.calls = inner, inner.encoder, at, act, 0
        self.sizes, self.keys, self.seeds = [], [], []

    def forward(self, batch, rng):
        self.calls += 1
        if self.calls == self.at:
            self.act()
        terms = self.inner(batch, rng)
        self.sizes.append(batch.n_crystals)
        self.keys.append(batch.keys)
        self.seeds.append(rng.initial_seed())
        return {**terms, "size": torch.tensor(float(batch.n_crystals))}


def test_means_in_the_history_count_every_crystal_the_same():
    made, history = run(made=Counting(objective()), split=replace(SPLIT, valid=ALL[:0]), how=replace(HOW, epochs=1))
    sizes = np.array(made.sizes)
    assert len(set(made.sizes)) > 1
    assert history[0]["size"] == pytest.approx((sizes**2).sum() / sizes.sum())


def test_every_step_has_its_own_chance_every_epoch_its_own_order_and_validation_always_the_same():
    made, _ = run(made=Counting(objective()))
    validation = slice(STEPS, None, STEPS + 1)
    assert len(set(made.seeds[validation])) == 1
    assert len(set(made.keys[validation])) == 1
    steps = [i for i in range(len(made.seeds)) if i % (STEPS + 1) != STEPS]
    assert len({made.seeds[i] for i in steps} | {*made.seeds[validation]}) == HOW.epochs * STEPS + 1
    orders = {made.keys[i] + made.keys[i + 1] for i in steps[::STEPS]}
    assert len(orders) == HOW.epochs
    assert len({frozenset(order) for order in orders}) == 1


def test_a_network_that_learns_nothing_has_the_same_validation_loss_every_epoch():
    _, history = run(how=replace(HOW, learning_rate=1e-30, weight_decay=0.0))
    valid = [{**row, "epoch": 0} for row in history if row["split"] == "valid"]
    train_losses = {row["crystal"] for row in history if row["split"] == "train"}
    assert valid[0] == valid[1] == valid[2]
    assert len(train_losses) == 3


def test_losses_fall_on_a_small_set():
    with seeded_weights(0):
        net = SiteNet(site_width=16, crystal_width=16, hidden=32)
        made = DeepInfoMax(net, negatives=(OtherCrystals(),), regularizer=NoRegularizer)
    how = Training(epochs=30, sites_per_batch=100, learning_rate=4e-3)
    _, history = run(made=made, how=how, split=Split(ALL, ALL[:0]))
    for name in ("site", "crystal"):
        first, last = history[0][name], np.mean([row[name] for row in history[-5:]])
        assert last < min(2 * np.log(2), first) - 0.1


def test_a_folder_holds_the_history_and_the_logs(tmp_path, uninterrupted):
    one = run(tmp_path)
    assert_same(one, uninterrupted)
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == one[1]
    assert "train/crystal" in (tmp_path / "csv" / "metrics.csv").read_text()
    assert [*(tmp_path / "tensorboard").glob("events.*")]
    assert not [*tmp_path.glob("*.partial")]


def test_a_finished_run_goes_on_for_more_epochs_as_if_it_had_never_stopped(tmp_path, uninterrupted):
    run(tmp_path, how=replace(HOW, epochs=1))
    first = (tmp_path / "csv" / "metrics.csv").read_text()
    assert_same(run(tmp_path), uninterrupted)
    assert (tmp_path / "csv" / "metrics.csv").read_text() == first
    assert "train/crystal" in (tmp_path / "csv" / "1" / "metrics.csv").read_text()
    assert_same(run(tmp_path), uninterrupted)  # and has nothing left to do


@pytest.mark.parametrize(
    ("call", "asked"),
    [
        (1, signal.SIGINT),
        (1, signal.SIGTERM),
        (2, signal.SIGTERM),
        (3, signal.SIGTERM),
        (3, signal.SIGINT),
        (4, signal.SIGINT),
    ],
    ids=["within an epoch", "within an epoch, TERM", "at its end", "in validation, TERM", "in validation", "later"],
)
def test_a_signal_stops_between_steps_and_resuming_loses_nothing(call, asked, tmp_path, uninterrupted):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    counting = Counting(objective(), at=call, act=lambda: os.kill(os.getpid(), asked))
    with pytest.raises(Interrupted):
        run(tmp_path, made=counting)
    assert {number: signal.getsignal(number) for number in before} == before
    # What runs is finished: the step, or the epoch with its validation.
    assert counting.calls == {1: 1, 2: 3, 3: 3, 4: 4}[call]
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == {1: 1, 2: 2, 3: 2, 4: 3}[call]
    resumed = Counting(objective())
    _, history = run(tmp_path, made=resumed)
    assert_same((resumed.inner, without(history, "size")), uninterrupted)
    assert counting.calls + resumed.calls == HOW.epochs * (STEPS + 1)


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_without_a_folder_stops_too_instead_of_passing_for_the_end(asked):
    counting = Counting(objective(), at=2, act=lambda: os.kill(os.getpid(), asked))
    with pytest.raises(Interrupted):
        run(made=counting)
    assert counting.calls <= STEPS + 1


class Died(BaseException):
    """Stands for a process that is gone from one moment to the next."""


def die():
    raise Died


@pytest.mark.parametrize("call", [1, 2, 3, 5, 9])
def test_dying_at_any_step_and_resuming_loses_nothing(call, tmp_path, uninterrupted, saving_every_step):
    with pytest.raises(Died):
        run(tmp_path, made=Counting(objective(), at=call, act=die))
    resumed = Counting(objective())
    _, history = run(tmp_path, made=resumed)
    assert_same((resumed.inner, without(history, "size")), uninterrupted)
    # Nothing is done twice but what was not saved: validation belongs to the step before it.
    assert resumed.calls <= 10 - call + 1


def test_dropout_is_of_the_seed_too_however_often_training_was_stopped(tmp_path, saving_every_step):
    def made():
        with seeded_weights(0):
            return DeepInfoMax(Dropping(site_width=4, crystal_width=5, hidden=8))

    torch.manual_seed(1)
    uninterrupted = run(made=made())
    assert_same(run(made=made().eval()), uninterrupted)  # as one that was loaded
    with pytest.raises(Died):
        run(tmp_path, made=Counting(made(), at=3, act=die))
    torch.manual_seed(2)
    resumed = Counting(made())
    _, history = run(tmp_path, made=resumed)
    assert_same((resumed.inner, without(history, "size")), uninterrupted)


def test_trainings_in_threads_draw_what_each_would_alone():
    both = Barrier(2, timeout=0.3)

    def meet():
        with suppress(BrokenBarrierError):  # one step waits for the other
            both.wait()

    def made(act=lambda: None):
        with seeded_weights(0):
            return Counting(DeepInfoMax(Dropping(site_width=4, crystal_width=5, hidden=8)), at=2, act=act)

    alone = run(made=made())
    with ThreadPoolExecutor(2) as threads:
        for beside in threads.map(lambda _: run(made=made(meet)), range(2)):
            assert_same(beside, alone)


def test_a_training_that_begins_does_not_reset_what_another_thread_draws(monkeypatch):
    noted, drawing, reset = Event(), Event(), Event()

    @contextmanager
    def isolated():
        with isolate_rng():
            if not noted.is_set():
                noted.set()
                drawing.wait(0.5)
            yield
        reset.set()

    def draw():
        drawing.set()
        reset.wait(0.5)

    def made(act=None):
        with seeded_weights(0):
            return Counting(
                DeepInfoMax(Dropping(site_width=4, crystal_width=5, hidden=8)), at=1, act=act or (lambda: 0)
            )

    alone, beside, begins = run(made=made()), made(draw), made()
    monkeypatch.setattr("lightning.pytorch.trainer.trainer.isolate_rng", isolated)
    with ThreadPoolExecutor(1) as thread:
        begun = thread.submit(run, made=begins)
        noted.wait()
        assert_same(run(made=beside), alone)
        assert_same(begun.result(), alone)


LONG = replace(HOW, epochs=8)


def test_a_process_killed_at_a_random_moment_and_resumed_gives_the_weights_of_an_uninterrupted_one(tmp_path):
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_training as t; from pathlib import Path; "
        "t.saving._SECONDS_BETWEEN_SAVES = -1.0; t.run(Path(sys.argv[2]), how=t.LONG)"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        expected = run(how=LONG)
        while not (tmp_path / "last.ckpt").exists():
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.01)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=random.uniform(0, 0.1))
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert 0 < saved["global_step"] < LONG.epochs * STEPS
    assert_same(run(tmp_path, how=LONG), expected)


def test_a_loss_that_is_not_finite_names_the_crystals():
    made = objective()
    broken = Counting(made, at=2, act=lambda: nn.init.constant_(made.encoder.to_site.weight, float("nan")))
    advice = "; take a lower rate, or try parts of your own with crystalmax.testing; the crystals are "
    with pytest.raises(FloatingPointError, match=rf"not finite \(site nan, .*\){advice}crystal \d(, crystal \d)+$"):
        run(made=broken)


class Steep(Objective):
    """A finite loss whose gradient is not."""

    def __init__(self):
        super().__init__()
        self.encoder, self.weight = objective().encoder, nn.Parameter(torch.zeros(()))

    def forward(self, batch, rng):
        return {"root": self.weight.abs().sqrt()}


def test_a_gradient_that_is_not_finite_names_the_crystals_and_spoils_no_weight():
    made = Steep()
    with pytest.raises(FloatingPointError, match=r"the gradient is not finite; .*; the crystals are crystal \d"):
        run(made=made)
    assert made.weight == 0


def test_mixed_precision_gives_nearly_the_same_losses():
    one_step = replace(HOW, epochs=1, sites_per_batch=1000)
    exact, mixed = (run(how=replace(one_step, precision=p))[1][0] for p in ("32-true", "bf16-mixed"))
    for name in ("site", "crystal"):
        assert mixed[name] == pytest.approx(exact[name], rel=0.05)
        assert mixed[name] != exact[name]


def test_a_precision_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="precision is '16-mixed'; give one of 32-true, bf16-mixed"):
        replace(HOW, precision="16-mixed")


@pytest.mark.parametrize("name", ["epochs", "sites_per_batch", "learning_rate", "clip"])
def test_impossible_plans_are_refused(name):
    with pytest.raises(ValueError, match=f"training with {name} = 0 is impossible; it must be above 0"):
        replace(HOW, **{name: 0})


def test_a_schedule_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="schedule is 'cosin'; give one of constant, cosine"):
        Training(schedule="cosin")
    with pytest.raises(ValueError, match="encoder_rate is -1"):
        Training(encoder_rate=-1)
    with pytest.raises(ValueError, match=r"averaging is 1\.0; give 0 for none, or less than 1"):
        Training(averaging=1.0)
    with pytest.raises(ValueError, match="patience is -1; give 0 for all epochs"):
        Training(patience=-1)
    with pytest.raises(ValueError, match="seed is -1; give 0 or more"):
        Training(seed=-1)


def test_a_rate_rises_over_a_twentieth_and_falls_to_nothing_along_a_cosine():
    how = Training(learning_rate=2.0, schedule="cosine")
    rates = [how.rate(done) for done in (0.0, 0.025, 0.05, 0.525, 1.0)]
    assert rates == pytest.approx([0.0, 1.0, 2.0, 1.0, 0.0])
    assert {Training(learning_rate=2.0).rate(done) for done in (0.0, 0.3, 1.0)} == {2.0}


def rates_of(monkeypatch, how):
    """The rate of each group at each step."""
    seen, step = [], torch.optim.AdamW.step

    def watched(self, *args, **kwargs):
        seen.append([group["lr"] for group in self.param_groups])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    made, _ = run(how=how)
    return made, seen


def test_each_step_has_the_rate_of_its_place_in_the_run_and_the_encoder_its_fraction(monkeypatch):
    how = replace(HOW, schedule="cosine", encoder_rate=0.25)
    _, seen = rates_of(monkeypatch, how)
    expected = [how.rate(step / (HOW.epochs * STEPS)) for step in range(HOW.epochs * STEPS)]
    np.testing.assert_allclose(seen, np.outer(expected, [0.25, 1.0]))


def test_at_a_rate_of_0_the_encoder_stays_and_the_rest_does_not():
    made, _ = run(how=replace(HOW, encoder_rate=0.0, weight_decay=0.1))
    start = objective()
    for name, weights in start.encoder.state_dict().items():
        assert torch.equal(weights, made.encoder.state_dict()[name])
    others = [name for name in start.state_dict() if not name.startswith("encoder.")]
    assert any(not torch.equal(start.state_dict()[name], made.state_dict()[name]) for name in others)


def test_dying_and_resuming_keeps_to_the_schedule(tmp_path, saving_every_step):
    how = replace(HOW, schedule="cosine", encoder_rate=0.25)
    with pytest.raises(Died):
        run(tmp_path, how=how, made=Counting(objective(), at=5, act=die))
    resumed = Counting(objective())
    _, history = run(tmp_path, how=how, made=resumed)
    assert_same((resumed.inner, without(history, "size")), run(how=how))


def test_training_ends_with_the_mean_of_all_weights_where_it_is_asked_for(uninterrupted):
    made = Following(objective())
    run(how=replace(HOW, averaging=0.75), made=made)
    last = Following(objective())
    run(made=last)
    mean = last.seen[1]  # after the first step
    for weights in [*last.seen[2:], uninterrupted[0].state_dict()]:
        mean = {name: 0.75 * mean[name] + 0.25 * weights[name] for name in mean}
    assert len(last.seen) == STEPS * HOW.epochs
    for name, weights in made.inner.state_dict().items():
        torch.testing.assert_close(weights, mean[name], rtol=1e-4, atol=1e-6)
        assert torch.equal(last.inner.state_dict()[name], uninterrupted[0].state_dict()[name])


class Following(Objective):
    """Keeps the weights of an objective as they are before each step."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.seen = inner, []

    @property
    def encoder(self):
        return self.inner.encoder

    def forward(self, batch, rng):
        if torch.is_grad_enabled():
            self.seen.append({name: tensor.clone() for name, tensor in self.inner.state_dict().items()})
        return self.inner(batch, rng)


class Planned(Objective):
    """A loss that learns nothing, and is what was planned for each epoch where it is watched."""

    def __init__(self, losses):
        super().__init__()
        self.encoder, self.losses, self.epoch = objective().encoder, losses, nn.Parameter(torch.zeros(()))
        self.watched = 0

    def forward(self, batch, rng):
        if not torch.is_grad_enabled():
            loss, self.watched = self.losses[self.watched], self.watched + 1
            return {"planned": torch.tensor(loss)}
        return {"planned": -self.epoch}  # grows with every step


@pytest.mark.parametrize(("patience", "epochs", "best"), [(0, 6, 6), (1, 3, 2), (2, 6, 5), (9, 6, 5)])
def test_training_ends_where_the_watched_loss_falls_no_more_with_the_weights_of_its_minimum(patience, epochs, best):
    losses = [3.0, 2.0, 2.5, 1.75, 1.5, 1.625]
    made, history = run(how=replace(HOW, epochs=6, patience=patience), made=Planned(losses))
    assert [row["planned"] for row in history if row["split"] == "valid"] == losses[:epochs]
    kept, _ = run(how=replace(HOW, epochs=best), made=Planned(losses))
    assert made.epoch == kept.epoch > 0


def test_an_interrupted_run_has_the_mean_of_its_weights_too():
    raw, mean = (Counting(objective(), at=5, act=lambda: os.kill(os.getpid(), signal.SIGINT)) for _ in range(2))
    for made, averaging in ((raw, 0.0), (mean, 0.5)):
        with pytest.raises(Interrupted):
            run(how=replace(HOW, averaging=averaging), made=made)
    one, other = raw.inner.state_dict(), mean.inner.state_dict()
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("n_watched", [0, 1, 2])
def test_patience_with_nothing_to_watch_is_said_to_be_in_vain(n_watched, caplog):
    split = Split(SPLIT.train, SPLIT.valid[:n_watched])
    _, history = run(how=replace(HOW, epochs=1, patience=1), split=split)
    is_watched = "valid" in {row["split"] for row in history}
    assert ("all epochs will be trained" in caplog.text) == (not is_watched) == (n_watched < 2)


def test_resuming_a_run_that_ended_in_vain_changes_nothing_and_says_why(tmp_path, caplog):
    how = replace(HOW, epochs=6, patience=1)
    losses = [3.0, 2.0, 2.5, 1.0, 1.0, 1.0]
    said = "the watched loss was lowest in epoch 2; training ends with the weights of that one"
    with caplog.at_level(logging.INFO):
        made, history = run(tmp_path, how=how, made=Planned(losses))
        assert caplog.messages[-1] == said
        caplog.clear()
        again, same = run(tmp_path, how=how, made=Planned(losses[3:]))
        assert caplog.messages == [said]
    assert len(same) == len(history)
    assert again.epoch == made.epoch


def test_dying_and_resuming_keeps_means_and_minima(tmp_path, saving_every_step):
    how = replace(HOW, epochs=4, averaging=0.5, patience=1)
    with pytest.raises(Died):
        run(tmp_path, how=how, made=Counting(objective(), at=7, act=die))
    resumed = Counting(objective())
    _, history = run(tmp_path, how=how, made=resumed)
    assert_same((resumed.inner, without(history, "size")), run(how=how))


def test_resuming_within_an_epoch_keeps_the_weights_of_the_lowest_loss_before_it(tmp_path, saving_every_step):
    how, losses = replace(HOW, patience=9), [3.0, 1.0, 2.0]
    with pytest.raises(Died):
        run(tmp_path, how=how, made=Counting(Planned(losses), at=8, act=die))  # in the last epoch, behind a step
    resumed = Counting(Planned(losses[2:]))
    run(tmp_path, how=how, made=resumed)
    best, _ = run(how=replace(HOW, epochs=2), made=Planned(losses))
    assert resumed.inner.epoch == best.epoch != 0


def test_training_needs_two_crystals():
    with pytest.raises(ValueError, match="at least 2 crystals, but there are 1"):
        run(split=Split(train=ALL[:1], valid=ALL[:0]))


def test_an_objective_is_a_module():
    with pytest.raises(TypeError):
        train(lambda batch, rng: {}, DATA, SPLIT, HOW, geometry=GEOMETRY)


@given(n=st.integers(0, 60), fraction=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_a_split_cuts_rows_in_two(n, fraction, seed):
    rows = np.arange(100, 100 + n)
    split = Split.random(rows, fraction, seed)
    assert sorted([*split.train, *split.valid]) == rows.tolist()
    assert len(split.valid) == round(fraction * n)
    again = Split.random(rows, fraction, seed)
    np.testing.assert_array_equal(split.train, again.train)


def test_initial_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = objective(seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second, other = objective(seed=3), objective(seed=4)
    assert torch.equal(first.encoder.to_site.weight, second.encoder.to_site.weight)
    assert not torch.equal(first.encoder.to_site.weight, other.encoder.to_site.weight)


@pytest.mark.parametrize("terms", [("site", "crystal"), ("Density",)])
def test_each_epoch_is_told_in_a_line_with_every_loss(tmp_path, caplog, terms):
    learner = objective() if len(terms) == 2 else Reconstruction(objective().encoder, intrinsics=(Density(),))
    with caplog.at_level("INFO", "crystalmax"):
        history = train(learner, DATA, SPLIT, replace(HOW, epochs=1), geometry=GEOMETRY, folder=tmp_path)
    (line,) = [record.message for record in caplog.records if record.message.startswith("epoch 1/1: train")]
    for row in history:
        assert f"{row['split']} {', '.join(f'{name} {row[name]:.3f}' for name in terms)}" in line
    assert "penalty" not in line


def test_options_reach_the_optimiser(monkeypatch):
    made, clips, clip = [], [], nn.utils.clip_grad_norm_

    class Watching(torch.optim.AdamW):
        def __init__(self, *parts, **options):
            made.append(options)
            super().__init__(*parts, **options)

    monkeypatch.setattr(torch.optim, "AdamW", Watching)
    monkeypatch.setattr(
        nn.utils, "clip_grad_norm_", lambda weights, longest: clips.append(longest) or clip(weights, longest)
    )
    run(how=replace(HOW, epochs=1, weight_decay=0.3, clip=0.7))
    assert (made[0]["weight_decay"], made[0]["amsgrad"], set(clips)) == (0.3, True, {0.7})


def test_losses_are_watched_on_the_mean_of_weights_that_training_ends_with():
    made, history = run(how=replace(HOW, averaging=0.75))
    _, again = run(how=replace(HOW, epochs=1, learning_rate=1e-30, weight_decay=0.0), made=made)
    last, same = history[-1], again[-1]
    assert last["split"] == same["split"] == "valid"
    assert last["crystal"] == pytest.approx(same["crystal"], rel=1e-6)


def test_with_patience_the_mean_of_the_best_epoch_is_kept():
    one, other = (run(how=replace(HOW, averaging=0.5, patience=p), made=Planned([3.0, 2.0, 1.0]))[0] for p in (0, 9))
    assert one.epoch == other.epoch != 0


class Two(Planned):
    """Another term, which rises as the first one falls, but more."""

    def forward(self, batch, rng):
        (loss,) = super().forward(batch, rng).values()
        return {"planned": loss, "other": -3 * loss}


@pytest.mark.parametrize(("kind", "losses", "best"), [(Planned, [1.0, 3.0, 2.0], 1), (Two, [1.0, 3.0, 2.0], 2)])
def test_the_best_epoch_is_that_of_the_least_sum_of_all_terms_so_far(kind, losses, best):
    made, _ = run(how=replace(HOW, epochs=3, patience=9), made=kind(losses))
    kept, _ = run(how=replace(HOW, epochs=best), made=kind(losses))
    assert made.epoch == kept.epoch != 0


def test_a_split_is_drawn_at_random():
    cuts = [Split.random(np.arange(40), 0.5, seed).valid.tolist() for seed in range(20)]
    assert len(set(map(tuple, cuts))) == 20
    assert 8 < np.mean(np.concatenate(cuts)) / 19.5 * 10 < 12


class Given(Objective):
    """Gives what it is told to, one after another, over an encoder."""

    def __init__(self, encoder, given):
        super().__init__()
        self.encoder, self.given, self.calls = encoder, given, 0

    def forward(self, batch, rng):
        self.calls += 1
        made = self.given[min(self.calls, len(self.given)) - 1]
        return made(self.encoder(batch).crystals.square().mean())


def given(*made):
    with seeded_weights(0):
        return Given(SiteNet(site_width=4, crystal_width=5, hidden=8), made)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda loss: loss, r"Given gave Tensor .* give a mapping with a term at least"),
        (lambda loss: {}, "Given gave dict {}; give a mapping"),
        (lambda loss: {"a": loss[None]}, r"Given gave a tensor of shape \[1\] as 'a'; give a floating-point tensor"),
        (lambda loss: {"a": 1.5}, "Given gave 1.5 as 'a'"),
        (lambda loss: {"a": loss.long()}, r"Given gave a tensor of shape \[\] as 'a'; give a floating-point"),
        (lambda loss: {"a": loss.detach()}, "Given gave terms that depend on no weight"),
        (lambda loss: {"crystals": loss}, "Given gave a term called 'crystals', which is the name of no loss; give"),
        (lambda loss: {0: loss}, "Given gave a term called 0, which is the name of no loss"),
    ],
)
def test_what_cannot_be_minimised_is_refused_with_the_name_of_the_objective(made, said):
    with pytest.raises(ValueError, match=said):
        run(made=given(made))


def test_terms_that_differ_from_batch_to_batch_are_refused():
    with pytest.raises(ValueError, match="the objective gave b after a; give the same terms for every batch"):
        run(made=given(lambda loss: {"a": loss}, lambda loss: {"b": loss}))


def test_a_checkpoint_of_another_network_is_no_start(tmp_path):
    run(tmp_path, how=replace(HOW, epochs=1))
    with pytest.raises(ValueError, match=r"last.ckpt .* or is of another network, .* remove it to begin anew"):
        run(tmp_path, made=given(lambda loss: {"a": loss}))
