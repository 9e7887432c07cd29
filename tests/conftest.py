"""Shared batches, quiet logs, reproducible property tests."""

import logging

import pytest
import torch
from hypothesis import settings

from crystalmax.crystal import CrystalBatch
from crystalmax.geometry import AllPairs
from crystals import some_crystals

settings.register_profile("crystalmax", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("crystalmax")

# Lightning reports its devices and asks for more workers at every call.
for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)


def pytest_configure(config):
    for warning in (
        "ignore:Do not use the .random. module",  # the shape checker draws which item of a tuple it looks at
        "ignore::UserWarning:lightning",
    ):
        config.addinivalue_line("filterwarnings", warning)


@pytest.fixture
def rng():
    """A generator with a fixed seed."""
    return torch.Generator().manual_seed(7)


@pytest.fixture
def crystals():
    """Six small crystals: ordered, disordered, with vacancies, with charges, with one site."""
    return some_crystals()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of two small data sets that takes seconds."""
    from studies import tiny  # with much that only tests of the study need

    return tiny(tmp_path_factory.mktemp("study"))


@pytest.fixture
def batch(crystals):
    """They as one batch with pairs; equal pairs share a row."""
    return AllPairs(max_sites=12)(CrystalBatch.collate(crystals))
