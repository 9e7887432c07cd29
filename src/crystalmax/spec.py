"""Components as plain data, and back: what recipes are written in and what is stored beside weights.

A component becomes `{"use": name, argument: value, ...}`. Nothing is registered: a short name is looked up in the
public modules of this package, a name with dots is imported, but only from places that were trusted beforehand, since a
spec may come from a stranger. The one rule for a component: `__init__` stores each argument under its own name.
"""

import functools
import inspect
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from threading import RLock
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import torch
from torch import nn
from torch.nn.modules import module as registry

TURN = RLock()
"""Held by the thread that uses what all threads share: torch's global generator, and hooks on every module made."""
MAX_WEIGHTS = 10**8
"""Weights that all parts of a spec may have together; a spec that asks for more is refused before they are made."""
MAX_TENSORS = 10**4
"""Arrays of weights that they may have together, likewise."""
MAX_RECIPE_BYTES = 2**20
"""A larger recipe is refused unread."""
DEFAULT = "intrinsic"
"""Name of the recipe that is used unless another is given: the one with the best vectors."""
_PARTS = (
    "encoding geometry neighbors samples.transforms samples.alterations samples.corruptions samples.augmentations "
    "samples.negatives encoders objectives objectives.estimators objectives.critics objectives.regularizers "
    "objectives.contrasts statistics.intrinsic"
)
PUBLIC_MODULES = tuple(f"crystalmax.{name}" for name in _PARTS.split())
_TRUSTED = ("crystalmax", "torch.optim")


def describe(component: object) -> dict[str, object]:
    """Write a component as plain data that `build` turns into an equal one.

    A component is a frozen dataclass, a named tuple or an `nn.Module`; or a class, also in a `functools.partial`, which
    stands for a part that is built later, once its other arguments are known.

    Raises:
        TypeError: It does not store its arguments under their names, takes `*args` or `**kwargs`, or is of a class that
            cannot be imported.
    """
    if isinstance(component, functools.partial):
        if component.args:
            raise TypeError(f"{component} has arguments without a name; a part built later takes keyword arguments")
        name = _name(component.func)
        return {"use": name, "later": True, **_plain_items(component.keywords, name)}
    if isinstance(component, type):
        return {"use": _name(component), "later": True}
    name = _name(type(component))
    parameters = _parameters(type(component))
    for argument in parameters:
        if not hasattr(component, argument):
            raise TypeError(f"{name} does not store its argument {argument!r} under that name; let its __init__ do so")
    taken = inspect.signature(type(component)).parameters
    if len(taken) > len(parameters) and type(component).__init__ is not nn.Module.__init__:
        raise TypeError(f"{name} takes any arguments, by * or **, which would be lost; let its __init__ name each")
    arguments = {argument: getattr(component, argument) for argument in parameters}
    return {"use": name, **_plain_items(arguments, name)}


def build(spec: object, *, trusted: tuple[str, ...] = ()) -> object:
    """Make the component that a spec describes; lists become tuples, and a mapping without `use` stays a mapping.

    The spec may import from crystalmax, torch.optim and the packages that are `trusted` besides.

    Raises:
        ValueError: The spec names a part that there is not or that may not be used, gives it arguments that it does not
            take or of another type than it says, nests parts too deeply, or asks for more weights than `MAX_WEIGHTS`.
        TypeError: `trusted` is one name, which would be read as its letters.
    """
    if isinstance(trusted, str):
        raise TypeError(f"trusted is {trusted!r}; give a tuple of names, ({trusted!r},)")
    packages = (*_TRUSTED, *trusted)
    try:
        # First on the meta device, without memory, to see how large it is; some parts cannot be made there.
        with TURN, torch.random.fork_rng(devices=[]), torch.device("meta"), _limited(), suppress(_Unmade):
            _build(spec, packages, "")
        with TURN, _limited():
            return _build(spec, packages, "")
    except RecursionError:
        raise ValueError("the parts are nested too deeply; write a spec of fewer levels") from None


def rebuilt(component: object, *, trusted: tuple[str, ...] | None = None) -> object:
    """An equal component with new random weights; errors are those of `describe` and `build`.

    Unless packages are `trusted`, all that it is made of are, as that runs here already.
    """
    spec = describe(component)
    if trusted is None:
        trusted = tuple({name.partition(".")[0] for name in parts_in(spec) if "." in name})
    if describe(made := build(spec, trusted=trusted)) != spec:
        found = f"{type(component).__name__}, or a part of it, is built differently from its description"
        raise TypeError(f"{found}; let __init__ store what it is given")
    return made


def parts_in(spec: object) -> set[str]:
    """Names of all parts that a spec, or a recipe, is made of."""
    if isinstance(spec, Mapping):
        own = {spec["use"]} if isinstance(spec.get("use"), str) else set()
        return own.union(*map(parts_in, spec.values()))
    return set[str]().union(*map(parts_in, spec)) if isinstance(spec, list | tuple) else set()


@contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Inside, torch's global generator has this seed; afterwards it is as it was before. Threads take turns."""
    with TURN, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def read_recipe(recipe: str | Path) -> dict[str, object]:
    """Read a TOML recipe from a path, or by its name one that ships with this package; `default` is `DEFAULT`.

    Raises:
        FileNotFoundError: There is no such file, and none of this name ships.
        ValueError: As `read_toml`.
    """
    shipped = {path.stem: path for path in (Path(__file__).parent / "recipes").glob("*.toml")}
    shipped["default"] = shipped[DEFAULT]
    path = shipped.get(str(recipe), Path(recipe))
    if not path.is_file():
        raise FileNotFoundError(
            f"no file and no shipped recipe is called {recipe}{_did_you_mean(str(recipe), shipped)}"
        )
    return read_toml(path)


def read_toml(path: str | Path) -> dict[str, Any]:
    """The content of a TOML file, a recipe or settings.

    Raises:
        ValueError: It is larger than `MAX_RECIPE_BYTES`, or not valid TOML.
    """
    if (path := Path(path)).stat().st_size > MAX_RECIPE_BYTES:
        raise ValueError(f"{path} is larger than {MAX_RECIPE_BYTES >> 20} MiB, which no recipe is")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # as some editors mark it
    except (ValueError, RecursionError) as error:  # of the syntax, or of the encoding
        raise ValueError(f"{path} is not valid TOML: {error}") from error


def _plain_items(arguments: Mapping[Any, object], owner: str) -> dict[str, object]:
    for name in arguments:
        if not isinstance(name, str):
            raise TypeError(f"{owner} has the key {name!r}, which files give back as text; give keys that are text")
    return {name: _plain(value, f"{owner}.{name}") for name, value in arguments.items()}


def _plain(value: object, where: str) -> object:
    value = value.item() if isinstance(value, np.generic) else value  # a number out of an array, as in a search
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        return _plain_items(value, where)
    if not isinstance(value, type) and type(value).__module__ == "builtins":
        raise TypeError(f"{where} is {value!r}, which is not a component; pass an object whose class can be imported")
    return describe(value)


def _name(component: object) -> str:
    if not isinstance(component, type) or "<locals>" in component.__qualname__ or component.__module__ == "__main__":
        raise TypeError(f"{component!r} is not a class that another session could import; define one in a module")
    if _public_classes().get(component.__name__) is component:
        return component.__name__
    return f"{component.__module__}.{component.__qualname__}"


def _build(spec: object, trusted: tuple[str, ...], where: str) -> object:
    if isinstance(spec, list | tuple):
        return tuple(_build(item, trusted, f"{where}[{i}]") for i, item in enumerate(spec))
    if not isinstance(spec, Mapping):
        return spec
    prefix = f"{where}." if where else ""
    arguments = {str(name): _build(value, trusted, f"{prefix}{name}") for name, value in spec.items()}
    if "use" not in arguments:
        return arguments
    name, later = arguments.pop("use"), arguments.pop("later", False)
    try:
        if not isinstance(name, str) or not isinstance(later, bool):
            raise ValueError(f"'use' is {name!r} and 'later' {later!r}; give the name of a part, and true or false")
        component = _find(name, trusted)
        _check_arguments(component, arguments, later=later)
    except ValueError as error:
        raise ValueError(f"at {where}: {error}" if where else str(error)) from error
    if later:
        return functools.partial(component, **arguments) if arguments else component
    try:
        return component(**arguments)
    except (RecursionError, _TooLarge):
        raise
    except Exception as error:  # whatever a part raises on arguments that it cannot take, it means the same
        at = f"at {where}: " if where else ""
        raise _Unmade(f"{at}{component.__name__} cannot be made with these arguments: {error}") from error


class _TooLarge(ValueError):
    """A spec asks for more weights or arrays than the limits."""


class _Unmade(ValueError):
    """A part could not be made with its arguments."""


@contextmanager
def _limited() -> Iterator[None]:
    """Raise `_TooLarge` if the modules that are made inside have more weights or arrays than the limits."""
    n_weights = n_tensors = 0

    def count(owner: nn.Module, name: str, tensor: torch.Tensor | None) -> None:
        nonlocal n_weights, n_tensors
        if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
            raise TypeError(f"{type(owner).__name__} would take its size from the first batch; give it the size")
        n_weights += 0 if tensor is None else tensor.numel()
        n_tensors += 1
        if n_weights > MAX_WEIGHTS or n_tensors > MAX_TENSORS:
            found = f"{n_weights:,} weights in {n_tensors:,} arrays"
            raise _TooLarge(f"these are at least {found}, more than {MAX_WEIGHTS:,} in {MAX_TENSORS:,}; ask for less")

    with (
        registry.register_module_parameter_registration_hook(count),
        registry.register_module_buffer_registration_hook(count),
    ):
        yield


def _find(name: str, trusted: tuple[str, ...]) -> type:
    module, _, attribute = name.rpartition(".")
    if not module:
        if name not in _public_classes():
            raise ValueError(f"crystalmax has no part {name!r}{_did_you_mean(name, _public_classes())}")
        return _public_classes()[name]
    if not _inside(module, trusted) or any(part.startswith("_") for part in name.split(".")):
        raise ValueError(
            f"refusing to import {name!r}: parts may come from {', '.join(trusted)}, and from packages that you trust "
            "by name (`--trust NAME`, or `trusted=` in Python), by their public names only"
        )
    try:
        classes = {key: each for key, each in vars(import_module(module)).items() if isinstance(each, type)}
    except ModuleNotFoundError as error:
        raise ValueError(f"cannot import {name!r}: {error}") from error
    # A trusted module has untrusted ones in its namespace: what it imported itself.
    known = {key: each for key, each in classes.items() if key[0] != "_" and _inside(each.__module__, trusted)}
    if attribute not in known:
        raise ValueError(f"refusing to use {name!r}: not a class of {module}{_did_you_mean(attribute, known)}")
    return known[attribute]


def _check_arguments(component: type, arguments: Mapping[str, object], *, later: bool) -> None:
    parameters = _parameters(component)
    for name, value in arguments.items():
        if name not in parameters:
            raise ValueError(f"{component.__name__} has no argument {name!r}{_did_you_mean(name, parameters)}")
        if not _fits(value, asked := parameters[name].annotation):
            found = " ".join(f"{value!r:.80}".split())
            short = re.sub(r"\w+\.(?!\.)|, \.\.\.", "", inspect.formatannotation(asked))  # without modules
            wanted = re.sub("tuple|Sequence", "list", short)  # as recipes have them
            raise ValueError(f"{name} of {component.__name__} is {found}; give {wanted}")
    required = (name for name, parameter in parameters.items() if parameter.default is parameter.empty)
    if not later and (missing := ", ".join(repr(name) for name in required if name not in arguments)):
        help_ = "give it, or write later = true if it is known only later"
        raise ValueError(f"{component.__name__} needs {missing}; {help_}")


def _fits(value: object, asked: Any) -> bool:  # noqa: ANN401
    """Whether a value has the type that an argument asks for; types that recipes cannot hold, as arrays, always fit."""
    origin, inside = get_origin(asked), get_args(asked)
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in inside)
    if origin is Literal:
        return value in inside
    if origin is Callable:
        return callable(value)
    if origin in (tuple, list, Sequence) and inside:
        if not isinstance(value, list | tuple):
            return False
        each = inside if origin is tuple and inside[1:] != (...,) else [inside[0]] * len(value)
        return len(each) == len(value) and all(map(_fits, value, each))
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(_fits(each, inside[1]) for each in value.values())
    if asked in (int, float):  # a whole number is a number too, but true is none
        return isinstance(value, (int, asked)) and not isinstance(value, bool)
    if asked in (bool, str, NoneType):
        return isinstance(value, asked)
    if not isinstance(asked, type) or not _inside(asked.__module__, ("crystalmax",)):
        return True
    return isinstance(value, asked) and not isinstance(value, type | functools.partial)  # built later, it is none yet


@functools.cache
def _public_classes() -> Mapping[str, type]:
    """Parts that this package itself defines, by name."""
    return {
        name: found
        for module in PUBLIC_MODULES
        for name, found in vars(import_module(module)).items()
        if isinstance(found, type) and _inside(found.__module__, ("crystalmax",))
        if not name.startswith("_") and not getattr(found, "_is_protocol", False)
    }


def _parameters(component: type) -> Mapping[str, inspect.Parameter]:
    try:
        parameters = inspect.signature(component).parameters
    except ValueError as error:
        raise TypeError(f"{component} does not say which arguments it takes, so it is not a component") from error
    with suppress(Exception):  # names that only type checkers know; such types stay text, and are not compared
        parameters = inspect.signature(component, eval_str=True).parameters
    return {name: each for name, each in parameters.items() if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)}


def _inside(module: str, packages: tuple[str, ...]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def _did_you_mean(name: str, known: Mapping[str, object]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(sorted(known))}"
