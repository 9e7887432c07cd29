"""Shared by all checks of parts: small crystals, and assertions with a full sentence as their message."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import wraps
from typing import Any, ParamSpec

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from crystalmax.crystal import Crystal, CrystalBatch, Occupant, Pairs
from crystalmax.spec import rebuilt

_CLOSE = 1e-4
Arguments = ParamSpec("Arguments")


def contract(check: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Make a check raise AssertionErrors only; another exception of the part that it tries becomes one."""

    @wraps(check)
    def checked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        try:
            check(*args, **kwargs)
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"{type(error).__name__} on small crystals: {error}; mend what raised it") from error

    return checked


def toy_crystals(number: int = 6, *, seed: int = 0) -> list[Crystal]:
    """Small crystals for checks, with one to seven sites, some of them charged, shared or partly empty."""
    rng = np.random.default_rng(seed)
    kinds = (
        (Occupant(8, 1.0, -2.0),),
        (Occupant(22, 1.0, 4.0),),
        (Occupant(26, 1.0),),
        (Occupant(12, 0.4), Occupant(14, 0.6)),
        (Occupant(9, 0.7),),
    )
    grid = np.stack(np.meshgrid(*[np.arange(3) / 3] * 3), -1).reshape(-1, 3)
    crystals = []
    for row in range(number):
        n_sites = 1 + (3 * row) % 7
        lattice = rng.uniform(5.0, 6.5) * (np.eye(3) + rng.uniform(-0.15, 0.15, (3, 3)))
        positions = rng.permutation(grid)[:n_sites] + rng.uniform(0, 0.08, (n_sites, 3))
        used, species = np.unique(rng.choice(len(kinds), n_sites, p=[0.35, 0.25, 0.2, 0.1, 0.1]), return_inverse=True)
        crystals.append(Crystal(lattice, positions, species, tuple(kinds[kind] for kind in used), f"toy {row}"))
    return crystals


def rewritten(crystals: Sequence[Crystal]) -> Iterator[tuple[str, list[Crystal], Int[Tensor, " sites"]]]:
    """The same crystals described in other ways: the name of the change, the crystals, the original of each site."""
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    sizes = [crystal.n_sites for crystal in crystals]
    in_order = torch.arange(sum(sizes))
    yield "a rotation", [replace(crystal, lattice=crystal.lattice @ turn) for crystal in crystals], in_order
    shift = rng.uniform(-1, 1, 3)
    yield "a translation", [replace(crystal, positions=crystal.positions + shift) for crystal in crystals], in_order
    orders = [np.roll(np.arange(size)[::-1], 1) for size in sizes]
    shuffled = [
        replace(crystal, positions=crystal.positions[order], species=crystal.species[order])
        for crystal, order in zip(crystals, orders, strict=True)
    ]
    begins = np.cumsum(sizes) - sizes
    source = np.concatenate([order + begin for order, begin in zip(orders, begins, strict=True)])
    yield "a change of the order of sites", shuffled, torch.from_numpy(source)


def check_description(part: object) -> object:
    """Check that a recipe can describe a part, and return the equal part that `build(describe(part))` makes."""
    try:
        return rebuilt(part)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{type(part).__name__} cannot be written into a recipe: {error}") from error


@contextmanager
def left_alone(batch: CrystalBatch, name: str, advice: str) -> Iterator[None]:
    """Check that a batch is the same at the end as at the beginning."""
    before = _copied(batch)
    yield
    for field in fields(CrystalBatch):
        untouched = same(getattr(batch, field.name), getattr(before, field.name))
        demand(untouched, f"{name} changed `{field.name}` of its input in place; {advice}")


@contextmanager
def own_chance(name: str) -> Iterator[None]:
    """Check that nothing draws from torch's global generator."""
    before = torch.get_rng_state()
    yield
    demand(
        torch.equal(before, torch.get_rng_state()),
        f"{name} draws from torch's global generator, so runs cannot be repeated; pass `generator=rng` to every draw",
    )


def _copied(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, CrystalBatch | Pairs):
        return replace(value, **{field.name: _copied(getattr(value, field.name)) for field in fields(value)})
    return dict(value) if isinstance(value, dict) else value


def same(one: object, other: object) -> bool:
    """Whether two values are equal; tensors, and tensors inside batches, by all of their numbers."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool(torch.equal(one, other))
    if is_dataclass(one) and type(one) is type(other):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    return one is other or bool(one == other)


def demand(claim: bool, otherwise: str) -> None:
    """Raise an AssertionError unless a claim holds; its message says what is wrong otherwise, and what to do."""
    if not claim:
        raise AssertionError(otherwise)


def demand_role(part: object, role: type) -> None:
    """Raise an AssertionError unless a part has all members of a protocol."""
    name, where = type(part).__name__, f"{role.__module__}.{role.__name__}"
    demand(not isinstance(part, type), f"{part} is a class; give one that is made of it")
    lacking = [each for each in dir(role) if not each.startswith("_") and not hasattr(part, each)]
    demand(isinstance(part, role), f"{name} has no {', '.join(lacking) or '__call__'}; write it as {where} says")


def demand_type(value: object, kind: type, name: str) -> None:
    """Raise an AssertionError unless a part returned a value of this type."""
    demand(isinstance(value, kind), f"{name} returned {type(value).__name__}; return {kind.__name__}")


def demand_close(one: Shaped[Tensor, "*some"], other: Shaped[Tensor, "*others"], otherwise: str) -> None:
    """Raise an AssertionError unless two arrays of numbers are the same, up to rounding."""
    off = float((one - other).detach().abs().max()) if one.shape == other.shape else float("nan")
    demand(off < _CLOSE, f"{otherwise} (they differ by {off:.2g})")
