"""The shape of the package: floors without a cycle, files that stay small, heavy imports where they belong."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import crystalmax

ROOT = Path(crystalmax.__file__).parent
MOST_FLOORS = 13  # 11 for what featurises, learns and judges; the study stands on top
MOST_LINES_A_FILE = 400
# What there is, and a few: whoever needs more looks for what can go first, and says in the commit what they are for.
MOST_LINES = 18_460

# Which files may import these when they are imported; imports inside functions wait until they are needed.
OWNERS = {
    "pymatgen": set(),
    "ase": set(),
    "gemmi": {"reading/structures.py", "reading/cif.py", "reading/symbols.py", "reading/symmetry.py"},
    "sklearn": {
        "featurizer.py",
        "regressor.py",
        "plots.py",
        "few_labels/kernels.py",
        "few_labels/powers.py",
        "few_labels/quantile_models.py",
        "few_labels/ridge.py",
        "few_labels/small_data.py",
        "judging/assessment.py",
        "judging/evaluation.py",
        "learning/probe.py",
        "study/material.py",
        "study/matbench.py",
        "study/models.py",
        "study/representation.py",
        "study/maps.py",
    },
    "matplotlib": {"plots.py", "judging/report.py", "study/figures.py"},
    "lightning": {"learning/training.py", "learning/saving.py", "learning/processes.py"},
}


def name_of(path, root):
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_when_imported(tree):
    """Names that a module imports at its top level, also below `if` and `try`, but not below `if TYPE_CHECKING`."""
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are written in full"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting.extend(
                child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.ExceptHandler)
            )


def imports_of_package(root):
    return {
        name_of(path, root): set(imports_when_imported(ast.parse(path.read_text(encoding="utf-8"))))
        for path in root.rglob("*.py")
    }


def inner(imports):
    """The graph inside the package. A package that only re-exports stands above its own modules."""
    return {name: {other for other in others if other in imports and other != name} for name, others in imports.items()}


def between_folders(graph):
    """The same graph with each folder for all that is in it; a file beside the folders stands for itself."""
    folders = {name: ".".join(name.split(".")[:2]) for name in graph}
    found = {folder: set() for folder in folders.values()}
    for name, others in graph.items():
        found[folders[name]] |= {folders[other] for other in others} - {folders[name]}
    return found


def longest_chain(graph):
    """The longest chain of imports, top first; a cycle is an error that names it."""

    def chain(name, above):
        assert name not in above, f"import cycle: {' -> '.join((*above[above.index(name) :], name))}"
        return (name, *max((below(other, (*above, name)) for other in graph[name]), key=len, default=()))

    known = {}

    def below(name, above):
        if name not in known:
            known[name] = chain(name, above)
        return known[name]

    return max((below(name, ()) for name in graph), key=len)


def strangers(imports, owners):
    """Modules that import a heavy package at import without owning it."""
    return {
        f"{name} imports {package}"
        for name, others in imports.items()
        for package, files in owners.items()
        if f"{name.split('.', 1)[-1].replace('.', '/')}.py" not in files
        and any(other.split(".")[0] == package for other in others)
    }


@cache
def lines():
    return {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in ROOT.rglob("*.py")
    }


def test_imports_form_floors_without_a_cycle():
    chain = longest_chain(inner(imports_of_package(ROOT)))
    assert len(chain) <= MOST_FLOORS, f"too many floors: {' -> '.join(chain)}"


def test_folders_import_downwards_only():
    assert longest_chain(between_folders(inner(imports_of_package(ROOT))))


def test_every_folder_with_code_is_explained():
    page = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = page.partition("| folder |")[2].partition("\n\n")[0]
    assert {*re.findall(r"^\| `(\w+)`", table, re.M)} == {path.parent.name for path in ROOT.glob("*/__init__.py")}


def test_files_stay_small():
    assert {name: count for name, count in lines().items() if count > MOST_LINES_A_FILE} == {}
    assert sum(lines().values()) < MOST_LINES


def test_heavy_packages_are_imported_where_they_belong():
    assert strangers(imports_of_package(ROOT), OWNERS) == set()


def test_importing_the_package_imports_nothing_heavy():
    script = (
        f"import sys, crystalmax; print(sorted({{'torch', 'numpy', 'pandas', *{sorted(OWNERS)}}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_only_reads_and_predicts_does_not_wait_for_what_trains_and_draws():
    script = (
        "import sys, crystalmax.fitted, crystalmax.prediction, crystalmax.featurizer\n"
        "print(sorted({'lightning', 'matplotlib', 'pymatgen', 'ase'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def plant(folder, **modules):
    root = folder / "toy"
    root.mkdir()
    (root / "__init__.py").write_text("", encoding="utf-8")
    for name, text in modules.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / f"{name}.py").write_text(text, encoding="utf-8")
    return imports_of_package(root)


def test_a_planted_cycle_is_found(tmp_path):
    graph = inner(
        plant(
            tmp_path, a="from toy import b", b="try:\n    import toy.c\nexcept ImportError:\n    pass", c="import toy.a"
        )
    )
    with pytest.raises(AssertionError, match=r"import cycle: toy\."):
        longest_chain(graph)


def test_a_planted_cycle_of_folders_is_found(tmp_path):
    graph = inner(plant(tmp_path, **{"low/a": "", "low/b": "import toy.high.c", "high/c": "import toy.low.a"}))
    assert longest_chain(graph) == ("toy.low.b", "toy.high.c", "toy.low.a")
    with pytest.raises(AssertionError, match=r"import cycle: toy\."):
        longest_chain(between_folders(graph))


def test_a_planted_chain_has_its_length(tmp_path):
    modules = {f"m{i}": f"import toy.m{i + 1}" for i in range(9)}
    late = "def f():\n    import toy.m0\n"
    chain = longest_chain(inner(plant(tmp_path, **modules, m9=late)))
    assert chain == tuple(f"toy.m{i}" for i in range(10))


def test_a_planted_heavy_import_is_found(tmp_path):
    imports = plant(
        tmp_path,
        owner="import pymatgen.core",
        stranger="if True:\n    from pymatgen.core import Structure",
        lazy="def f():\n    import pymatgen",
        typed="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pymatgen",
    )
    assert strangers(imports, {"pymatgen": {"owner.py"}}) == {"toy.stranger imports pymatgen"}
