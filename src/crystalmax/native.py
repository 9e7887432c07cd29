"""Loops in C that stand in for several torch operations at once, on CPU and in float32.

They are compiled when the package is built. Where that failed, on an accelerator and in other precisions, `usable` says
no, and the torch code beside each call gives the same numbers. CRYSTALMAX_NATIVE=0 in the environment turns them off.
"""

import ctypes
import os
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

MOST_WIDTH = 1024
"""Rows wider than this are left to torch."""

LANES = 16
"""Columns of a product that are computed at once; loops need matrices with a multiple of this many columns."""

Context = Any
"""The context of a `torch.autograd.Function`, which has no type for what is stored in it."""

_KNOWN = (torch.float32, torch.float64, torch.int64)


def _load() -> ctypes.CDLL | None:
    found = find_spec("crystalmax._native")
    if found is None or found.origin is None or os.environ.get("CRYSTALMAX_NATIVE") == "0":
        return None
    return ctypes.CDLL(found.origin)


_library = _load()


def usable(*reals: Tensor) -> bool:
    """Whether the loops in C are there, and can work on these arrays."""
    return _library is not None and all(
        real.device.type == "cpu" and real.dtype == torch.float32 and (real.dim() < 2 or real.shape[-1] <= MOST_WIDTH)
        for real in reals
    )


def run(name: str, *arguments: Tensor | float | None) -> int:
    """Call a loop of the library with contiguous tensors and sizes; other Python threads go on meanwhile."""
    loop = getattr(_library, name)
    loop.restype = ctypes.c_int64
    result: int = loop(*map(_in_c, arguments))
    return result


def _in_c(argument: Tensor | float | None) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_double:
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    if isinstance(argument, float):
        return ctypes.c_double(argument)
    if argument is not None and argument.dtype not in _KNOWN:  # it would be read beyond its end
        shape = tuple(argument.shape)
        raise TypeError(f"an array of shape {shape} is of {argument.dtype}; rows, owners and sites take torch.int64")
    return ctypes.c_void_p(None if argument is None else argument.data_ptr())
