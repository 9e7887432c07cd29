"""A table of labelled crystals as CIF text, such as a study is given."""

import numpy as np
import pandas as pd

from crystalmax.elements import SYMBOLS


def cif_of(one):
    """An ordered crystal as CIF text without symmetry."""
    lengths = np.linalg.norm(one.lattice, axis=1)
    unit = one.lattice / lengths[:, None]
    angles = np.degrees(np.arccos([unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]]))
    lines = ["data_crystal", "_space_group_name_H-M_alt 'P 1'"]
    lines += [f"_cell_length_{axis} {length:.6f}" for axis, length in zip("abc", lengths, strict=True)]
    lines += [f"_cell_angle_{name} {angle:.6f}" for name, angle in zip(("alpha", "beta", "gamma"), angles, strict=True)]
    lines += ["loop_", "_atom_site_type_symbol", *(f"_atom_site_fract_{axis}" for axis in "xyz")]
    for kind, position in zip(one.species, one.positions, strict=True):
        ((number, _, _),) = one.kinds[kind]
        lines.append(" ".join([SYMBOLS[number - 1], *(f"{number:.6f}" for number in position)]))
    return "\n".join([*lines, ""])


def table_of(crystals, **columns):
    """A row a crystal: its name, its CIF text and these columns."""
    names = [one.key for one in crystals]
    return pd.DataFrame({"material_id": names, "cif": [cif_of(one) for one in crystals], **columns})
