"""Claim: `--unique` takes for one what pymatgen's `StructureMatcher` takes for one, and little else.

    python benchmarks/same_structure.py --data DIR --out benchmarks/results/same_structure.json

Pairs of structures of one formula, among those that the weights that ship have learnt from: at most six of a formula,
of cells with at most 24 sites. Expected: nine in ten of those that are alike to the matcher, and a percent of the
others, which differ in far neighbours only. Three minutes of one core, most of them to read.
"""

from collections import Counter, defaultdict
from itertools import combinations

import numpy as np
from machine import about, parser_of, publish
from pymatgen.core import Lattice, Structure
from pymatgen.core.structure_matcher import StructureMatcher
from train import learnt_from

from crystalmax.crystal import Crystal, formula
from crystalmax.elements import SYMBOLS
from crystalmax.fingerprint import Fingerprint

MAX_SITES, MOST_OF_A_FORMULA = 24, 6


def main() -> None:
    """Compare, print, write JSON."""
    parser = parser_of(__doc__, crystals=1500)
    options = parser.parse_args()
    of_formula = defaultdict(list)
    for crystal in learnt_from(options.data):
        if crystal.n_sites <= MAX_SITES:
            of_formula[formula(crystal)].append(crystal)
    rng = np.random.default_rng(0)
    pairs = [
        alike[row]
        for alike in (list(combinations(crystals, 2)) for crystals in of_formula.values())
        for row in rng.permutation(len(alike))[:MOST_OF_A_FORMULA]
    ]
    chosen = [pairs[row] for row in rng.permutation(len(pairs))[: options.crystals]]
    matcher = StructureMatcher()
    found = Counter(
        (bool(matcher.fit(structure(one), structure(other))), Fingerprint.of(one).equals(Fingerprint.of(other)))
        for one, other in chosen
    )
    alike, others = ({ours: found[theirs, ours] for ours in (True, False)} for theirs in (True, False))
    publish(
        {
            "pairs": len(chosen),
            "alike to the matcher": sum(alike.values()),
            "of these alike to us": round(alike[True] / sum(alike.values()), 4),
            "of the others alike to us": round(others[True] / sum(others.values()), 4),
            **about(),
        },
        options.out,
    )


def structure(crystal: Crystal) -> Structure:
    """The same in the types of the matcher."""
    kinds = [{SYMBOLS[each.atomic_number - 1]: each.occupancy for each in kind} for kind in crystal.kinds]
    return Structure(Lattice(crystal.lattice), [kinds[row] for row in crystal.species], crystal.positions)


if __name__ == "__main__":
    main()
