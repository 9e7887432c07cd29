"""Vectors for crystals, learnt from structures alone, with an honest answer to whether that helped."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crystalmax.featurizer import CrystalFeaturizer as CrystalFeaturizer
    from crystalmax.few_labels.small_data import SmallDataRegressor as SmallDataRegressor
    from crystalmax.regressor import CrystalRegressor as CrystalRegressor

__version__ = "0.1.0"
__all__ = ["CrystalFeaturizer", "CrystalRegressor", "SmallDataRegressor"]

# Loaded on first use (PEP 562), so that `import crystalmax` and `--help` never wait for torch.
_HOME = {
    "CrystalFeaturizer": "crystalmax.featurizer",
    "CrystalRegressor": "crystalmax.regressor",
    "SmallDataRegressor": "crystalmax.few_labels.small_data",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'crystalmax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
