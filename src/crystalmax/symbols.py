"""Elements and charges from what CIF files write in place of them.

A type symbol must be an element, in any case and with or without a charge: `Fe`, `FE`, `Fe3+`, `Fe+3`. A label
(`Fe1`, `AlT`, `O-H`) stands in where a file gives no type symbols: it is the longest element that the label begins
with, the one that is in the stated formula where several are possible (`CO1` is carbon in a carbonate). `Wat`, `H2O`
and `HOH` are the oxygen of a water molecule whose hydrogens have no coordinates. Ghosts such as `Du` or `Vac` are no
elements.
"""

import re
from collections.abc import Set
from functools import lru_cache
from typing import NamedTuple

import gemmi

HEAVIEST = 103
"""Lawrencium, the heaviest element for which tables of properties exist."""

_CHARGED = re.compile(r"[A-Za-z]+(?:(\d+\.?\d*)([+-])|([+-])(\d*\.?\d*))$")
_FORMULA = re.compile(r"([A-Z][a-z]?)(\d*\.?\d*)")
_WATER = re.compile(r"(?:wat|h2o|hoh)", re.IGNORECASE)
_HYDROXYL = re.compile(r"O-?\(?H")
_GHOSTS = {"du", "dum", "dummy", "va", "vac", "void", "bq", "lp", "gh", "ghost", "cnt", "cent"}


class Reading(NamedTuple):
    """What a symbol may mean.

    Attributes:
        candidates: Atomic numbers, the likeliest first; none where it names no element.
        oxidation_state: The charge that the symbol carries.
        note: What was reinterpreted.
        bare_oxygen: Whether hydrogens belong to this atom that the symbol does not list.
    """

    candidates: tuple[int, ...]
    oxidation_state: float | None = None
    note: str = ""
    bare_oxygen: bool = False


@lru_cache(maxsize=65536)
def from_type(symbol: str) -> Reading:
    """What a type symbol means."""
    if _WATER.match(symbol) or symbol in {"OH", "O-H"}:
        return Reading((8,), bare_oxygen=True)
    letters = _letters(symbol)
    number = _number(letters)
    note = isotope_note(letters) if letters in {"D", "T"} else ""
    return Reading((number,) if number else (), _charge(symbol), note)


@lru_cache(maxsize=65536)
def from_label(label: str) -> Reading:
    """What a site label means where no type symbol is given."""
    if _WATER.match(label):
        return Reading((8,), bare_oxygen=True)
    letters = _letters(label)
    if letters.lower() in _GHOSTS:
        return Reading(())
    as_written = [letters[:2]] if letters[1:2].islower() else []
    in_capitals = [letters[:2]] if letters[1:2].isupper() else []
    numbers = [_number(prefix) for prefix in (*as_written, *in_capitals, letters[:1]) if prefix != "T"]
    light = [number for number in numbers if 1 <= number <= HEAVIEST]
    heavy = [number for number in numbers if number > HEAVIEST]
    note = isotope_note("D") if light[:1] == [1] and letters.startswith("D") else ""
    return Reading((*light, *heavy), None, note, bool(_HYDROXYL.match(label)))


def element(reading: Reading, stated: Set[int]) -> int:
    """The atomic number among the candidates, that of the stated formula first; 0 where there is none."""
    for number in reading.candidates:
        if number in stated:
            return number
    return reading.candidates[0] if reading.candidates else 0


def isotope_note(symbol: str) -> str:
    """What is noted where an isotope is read as its element."""
    return f"{'deuterium' if symbol == 'D' else 'tritium'} was read as hydrogen"


def sum_formula(text: str) -> dict[int, float]:
    """Atoms by atomic number; nothing where the text is no plain sum formula."""
    formula: dict[int, float] = {}
    for word in text.split():
        for number, amount in _formula_word(word):
            if number == 0:
                return {}
            formula[number] = formula.get(number, 0.0) + amount
    return formula


@lru_cache(maxsize=65536)
def _formula_word(word: str) -> tuple[tuple[int, float], ...]:
    if _FORMULA.sub("", word):
        return ((0, 0.0),)
    return tuple(
        (_number(symbol), float(amount) if amount.strip(".") else 1.0) for symbol, amount in _FORMULA.findall(word)
    )


@lru_cache(maxsize=1024)
def _number(symbol: str) -> int:
    return 1 if symbol in {"D", "T"} else int(gemmi.Element(symbol).atomic_number)


def _letters(text: str) -> str:
    match = re.match(r"[A-Za-z]*", text)
    return match.group() if match else ""


def _charge(symbol: str) -> float | None:
    match = _CHARGED.match(symbol)
    if match is None:
        return None
    amount = float(match.group(1) or match.group(4) or 1)
    return -amount if "-" in (match.group(2), match.group(3)) else amount
