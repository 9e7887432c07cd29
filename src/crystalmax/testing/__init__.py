"""Contracts of parts that can be added: each check raises an AssertionError that says what is wrong and what to do.

    from crystalmax.testing import check_encoder
    check_encoder(MyEncoder())

Checks try a part on a few small crystals, take seconds, and need no test framework.
"""

from crystalmax.testing.batches import check_geometry as check_geometry
from crystalmax.testing.batches import check_transform as check_transform
from crystalmax.testing.claims import toy_crystals as toy_crystals
from crystalmax.testing.levels import check_encoder as check_encoder
from crystalmax.testing.levels import check_sampler as check_sampler
from crystalmax.testing.losses import check_objective as check_objective
from crystalmax.testing.scores import check_estimator as check_estimator
