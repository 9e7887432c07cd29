"""Makes tables of elastic and piezoelectric tensors for the benchmarks, from a release of matminer that holds them.

    python -m pip download matminer==0.4.0 --no-deps --no-binary matminer --dest DIR
    python benchmarks/tensors.py DIR/matminer-0.4.0.tar.gz --out DIR

Computed values of crystals of the Materials Project: moduli of de Jong et al., DOI 10.1038/sdata.2015.9, averaged after
Voigt, Reuss and Hill, and the greatest response of a piezoelectric tensor, DOI 10.1038/sdata.2015.53. matminer is under
a modified BSD licence. Columns are those of the other tables that the benchmarks read.
"""

import argparse
import tarfile
from pathlib import Path

import pandas as pd

from crystalmax.reading.ingest import canonical_records

TABLES = {
    "elastic_tensor": {"K_VRH": "bulk_modulus_GPa", "G_VRH": "shear_modulus_GPa", "poisson_ratio": "poisson_ratio"},
    "piezoelectric_tensor": {"eij_max": "piezoelectric_modulus_C_per_m2"},
}
"""Which columns are taken, and how they are called here."""


def main() -> None:
    """Read, name columns, count sites of primitive cells, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path, help="matminer-0.4.0.tar.gz")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tarfile.open(options.release) as archive:
        for name, columns in TABLES.items():
            file = archive.extractfile(f"matminer-0.4.0/matminer/datasets/{name}.csv")
            assert file is not None, f"{name}.csv is a folder or a link"
            table = pd.read_csv(file, comment="#").rename(columns={**columns, "structure": "cif"})
            table = table[["material_id", "cif", *columns.values()]]
            crystals = [record.crystal for record in canonical_records(table)]
            table["n_sites"] = [crystal.n_sites if crystal else pd.NA for crystal in crystals]
            table.to_parquet(options.out / f"{name}.parquet", index=False)
            print(f"{name}: {len(table):,} crystals, {table.n_sites.isna().sum()} of them refused")


if __name__ == "__main__":
    main()
