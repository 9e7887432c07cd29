"""Elements and charges from what CIF files write in place of them.

A type symbol must be an element, in any case and with or without a charge: `Fe`, `FE`, `Fe3+`, `Fe+3`. A label
(`Fe1`, `AlT`, `O-H`) stands in where a file gives no type symbols: it is the longest element that the label begins
with, the one that is in the stated formula where two are possible (`CO1` is carbon in a carbonate). `Wat`, `H2O`,
`OH` and the like are an oxygen whose hydrogens have no coordinates. Ghosts such as `Du` or `Vac` are no elements,
and neither are mixtures in one symbol, `Mg/Fe` or `Mg0.5Fe0.5`, nor `LaSr` or `Al+Si` where types are given.
"""

import re
from collections.abc import Container
from functools import lru_cache
from typing import NamedTuple

import gemmi

from crystalmax.elements import N_ELEMENTS
from crystalmax.limits import MAX_WORDS

DEUTERIUM = "deuterium was read as hydrogen"

_CHARGE = re.compile(r"[A-Za-z]+(\d+(?:\.\d+)?)?([+-])(\d+(?:\.\d+)?)?$")
_FORMULA = re.compile(r"([A-Z][a-z]?)(\d+\.?\d*|\.\d+)?")
_BARE_OXYGEN = re.compile(r"(?i:wat|h2o|hoh)|O-?\(?H")
_MIXTURE = re.compile(r"[A-Za-z][\d.]*\s*[/,]\s*[A-Z]|\.\d+\s*[A-Z]")
_ELEMENT = re.compile(r"[A-Z](?:[a-z]|[A-Z](?![a-z]))?")
# Of scattering factor, charge or site, and no element: `H(SDS)`, `FeIII`, `O1W`.
_KIND = re.compile(r"\((?:SDS|[IV]+)\)|II+|IV|VI+|(?<=\d)[A-Z]$")
_GHOSTS = {"du", "dum", "dummy", "va", "vac", "void", "bq", "gh", "ghost", "cnt", "cent"}


class Symbol(NamedTuple):
    """What a symbol means: an atomic number (0 for no element), a charge if it states one, what was reinterpreted."""

    atomic_number: int
    oxidation_state: float | None = None
    note: str = ""


@lru_cache(maxsize=4096)
def from_type(symbol: str) -> Symbol:
    """What a type symbol means."""
    if _BARE_OXYGEN.match(symbol):
        return _WATER
    if len(symbol) > MAX_WORDS or any(map(_number, _ELEMENT.findall(_KIND.sub("", symbol))[1:])):
        return Symbol(0)
    letters, charge = _letters(symbol), _CHARGE.match(symbol)
    state = float(f"{charge[2]}{charge[1] or charge[3] or 1}") if charge else None
    return Symbol(_number(letters), state, DEUTERIUM if letters == "D" else "")


def from_label(label: str, stated: Container[int] = ()) -> Symbol:
    """What a site label means where no type symbol is given, in the light of the elements in the stated formula."""
    if _BARE_OXYGEN.match(label):
        return _WATER
    letters = _letters(label)
    if letters.lower() in _GHOSTS:
        return Symbol(0)
    possible = [number for length in (2, 1) if 1 <= (number := _number(letters[:length])) <= N_ELEMENTS]
    number = next((number for number in possible if number in stated), next(iter(possible), 0))
    return Symbol(number, None, DEUTERIUM if number == 1 and letters.startswith("D") else "")


def sum_formula(text: str) -> dict[int, float]:
    """Atoms by atomic number; nothing where the text is no plain sum formula."""
    if _FORMULA.sub("", text).strip():
        return {}
    formula: dict[int, float] = {}
    for symbol, amount in _FORMULA.findall(text):
        number = _number(symbol)
        formula[number] = formula.get(number, 0.0) + float(amount or 1)
    return {} if 0 in formula else formula


_WATER = Symbol(8, None, "water or hydroxyl was read as its oxygen")


@lru_cache(maxsize=1024)
def _number(symbol: str) -> int:
    return int(gemmi.Element(symbol).atomic_number)


def _letters(text: str) -> str:
    return "" if _MIXTURE.search(text) else re.split(r"[^A-Za-z]", text, maxsplit=1)[0]
