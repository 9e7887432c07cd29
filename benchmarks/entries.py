"""What the tables of the research log hold that are more than a list of what a benchmark found."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

AS_IT_IS = "as it is"
"""The lever that changes nothing."""

SHORT = {
    "last_phdos_peak_cm1": "phonons",
    "refractive_index": "refractive index",
    "band_gap_expt_eV": "measured gap",
    "tc_K": "Tc",
    "formation_energy_eV_per_atom": "formation energy",
    "band_gap_eV": "computed gap",
    "seebeck_p_uV_per_K": "Seebeck",
    "fermi_energy_eV": "Fermi energy",
}
"""The eight properties of the product's tables in few words."""

WORDS = {
    "last_phdos_peak_cm1": "last phonon peak, cm-1",
    "refractive_index": "refractive index",
    "band_gap_expt_eV": "measured band gap, eV",
    "tc_K": "measured superconducting transition (Tc), K",
    "formation_energy_eV_per_atom": "formation energy, eV/atom",
    "band_gap_eV": "computed band gap, eV",
    "seebeck_p_uV_per_K": "Seebeck coefficient of holes, uV/K",
    "fermi_energy_eV": "Fermi energy, eV",
    "e_above_hull_eV_per_atom": "hull energy, eV/atom",
    "poly_total": "static dielectric constant",
    "heat_of_formation_all_eV": "heat of formation of perovskites, eV",
    "energy_eV_per_atom": "energy of carbon, eV/atom",
    "total_magnetization_muB_per_cell": "magnetic moment, muB/cell",
    "power_factor_n_uW_per_m_K2": "power factor of electrons, uW/(m K2)",
    "bulk_modulus_GPa": "bulk modulus, GPa",
    "shear_modulus_GPa": "shear modulus, GPa",
    "poisson_ratio": "Poisson's ratio",
    "piezoelectric_modulus_C_per_m2": "piezoelectric modulus, C/m2",
    "poly_electronic": "electronic dielectric constant",
    "band_gap_direct_eV": "direct gap of perovskites, eV",
    "seebeck_n_uV_per_K": "Seebeck coefficient of electrons, uV/K",
}
"""All properties, with their units."""

Run = Sequence[Mapping[str, Any]]
Header = tuple[str, ...]


def named(target: str) -> str:
    """The words for a property that is called after its table and column; the column where there are none."""
    column = target.partition(", ")[2]
    return WORDS.get(column, column)


def levers(recipe: str, found: Mapping[str, Any]) -> tuple[Header, list[tuple[str, ...]]]:
    """What each change of a recipe does to the errors of its vectors, in percent; the lowest first."""
    start = _logarithms(found[AS_IT_IS], "errors").mean(axis=1)
    rows = {}
    for lever, seeds in found.items():
        told, untrained = _logarithms(seeds, "errors"), _logarithms(seeds, "untrained")
        gained, learnt = told.sub(start, axis=0), (told - untrained).mean(axis=1)
        by_property = gained.mean(axis=1).groupby(lambda cell: SHORT[cell.partition(", ")[0]]).mean().sort_values()
        ends = [f"{100 * np.expm1(by_property.iloc[place]):+.0f}, {by_property.index[place]}" for place in (0, -1)]
        below = f"{100 * np.expm1(learnt.mean()):+.0f} ({(learnt <= 0).sum()} of {len(learnt)})"
        rows[lever] = (gained.mean().mean(), (lever, _signed(gained.mean()), *ends, below))
    _, (_, seeds, *_, below) = rows.pop(AS_IT_IS)
    header = (
        f"`{recipe}` but for",
        "mean of each seed",
        "best property",
        "worst property",
        "to untrained, cells below",
    )
    return header, [(AS_IT_IS, seeds, "", "", below), *(row for _, row in sorted(rows.values()))]


def probed(found: Mapping[str, Any]) -> pd.DataFrame:
    """What linear maps of vectors tell, and their mean error against that of untrained networks, one row a network."""
    each = [(recipe, one) for recipe, levers in found.items() for seeds in levers.values() for one in seeds.values()]
    start = np.mean([_level(one["untrained"]) for levers in found.values() for one in levers[AS_IT_IS].values()])
    rows = {
        (name, told, float(np.exp(_level(one[errors]) - start)))
        for recipe, one in each
        for name, errors, told in zip((recipe, "untrained"), ("errors", "untrained"), one.get("told", ()), strict=False)
    }
    return pd.DataFrame(sorted(rows), columns=["recipe", "told", "error"])


def _level(errors: Mapping[str, float]) -> float:
    return float(np.mean(np.log(list(errors.values()))))


def _logarithms(seeds: Mapping[str, Any], which: str) -> pd.DataFrame:
    """Of errors, a row for each property and number of labels and a column for each seed."""
    return pd.DataFrame({seed: found[which] for seed, found in seeds.items()}).map(np.log)


def _signed(logarithms: Iterable[float]) -> str:
    """Changes in percent."""
    return " / ".join(f"{100 * np.expm1(change):+.1f}" for change in logarithms)


def runs(found: Mapping[str, Any]) -> dict[str, list[Run]]:
    """Those of each recipe."""
    by_recipe: dict[str, list[Run]] = {}
    for name, run in found["runs"].items():
        by_recipe.setdefault(name.partition(", ")[0], []).append(run)
    return by_recipe


def worth(run: Run) -> np.ndarray:
    """Mean logarithm of the error against that of the network before it learnt, at each stop."""
    errors = np.log([list(row["errors"].values()) for row in run])
    mean: np.ndarray = (errors - errors[0]).mean(axis=1)
    return mean


def _best(name: str, choose: Callable[[Sequence[float]], Any]) -> Callable[[Run], int]:
    """Where what is watched is best, once training has begun."""
    return lambda run: 1 + int(choose([row[name] for row in run[1:]]))


RULES: Mapping[str, Callable[[Run], int]] = {
    "the lowest loss": _best("loss", np.argmin),
    "the highest rank": _best("rank", np.argmax),
    "the lowest mean cosine": _best("cosine", np.argmin),
    "the best probe of statistics": _best("statistics", np.argmax),
    "the best probe of crystal systems": _best("systems", np.argmax),
    "6 epochs": lambda run: [row["epochs"] for row in run].index(6),
    "27 epochs": lambda run: len(run) - 1,
}
"""Where each of them stops, of a run."""


def rules(found: Mapping[str, Any]) -> tuple[Header, list[tuple[str, ...]]]:
    """Where rules that need no label stop, and how much more error that is than at the best stop in hindsight."""
    rows = []
    for rule, choose in RULES.items():
        columns = []
        for several in runs(found).values():
            places = [choose(run) for run in several]
            costs = [worth(run)[place] - worth(run)[1:].min() for run, place in zip(several, places, strict=True)]
            epochs = [str(run[place]["epochs"]) for run, place in zip(several, places, strict=True)]
            columns += [" / ".join(epochs), _signed(costs)]
        rows.append((rule, *columns))
    return ("stop at", *(f"`{recipe}`: {what}" for recipe in runs(found) for what in ("epochs", "more error, %"))), rows


def joined(parts: Iterable[str]) -> str:
    """Parts between slashes, or one for all where they are equal."""
    parts = list(parts)
    return parts[0] if len(set(parts)) == 1 else " / ".join(parts)
