"""The pieces of Python on the pages stand as they are: what they import is there, and every name is known."""

import ast
import builtins
import importlib.util
import re
from pathlib import Path

import pytest

from crystalmax.learning.pretraining import parts_of
from crystalmax.storage.dataset import DatasetWriter
from crystals import some_crystals

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
GIVEN = {"structures", "values", "others"}  # what the reader has
ONE_JOB = {"getting-started.md", "few-labels.md"}  # pages whose pieces go on from each other
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def snippets(page):
    """What stands on a page, one text for all where pieces go on from each other."""
    pieces = [piece for piece in _BLOCK.findall(page.read_text(encoding="utf-8")) if "--8<--" not in piece]
    return ["\n".join(pieces)] if pieces and page.name in ONE_JOB else pieces


SNIPPETS = [pytest.param(text, id=f"{page.stem}-{n}") for page in PAGES for n, text in enumerate(snippets(page))]


def unknown(text):
    """Names that a piece reads and nobody has given."""
    nodes = list(ast.walk(ast.parse(text)))
    made = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    made |= {
        (alias.asname or alias.name).split(".")[0]
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    read = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return read - made - GIVEN - set(dir(builtins))


def imports(text):
    """Lines that import from packages that are installed here."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            first = (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
            if importlib.util.find_spec(first) is not None:
                yield ast.unparse(node)


@pytest.mark.parametrize("text", SNIPPETS)
def test_a_piece_of_python_can_be_copied(text, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    assert unknown(text) == set()
    for line in imports(text):
        exec(line, {})


def test_objects_of_ones_own_are_trained_as_the_page_says(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    with DatasetWriter(tmp_path / "data", provenance={}) as writer:
        for crystal in 2 * some_crystals():
            writer.add(crystal)
    text = snippets(ROOT / "docs" / "extend.md")[-1]
    names = {"structures": some_crystals()}
    exec(text, names)
    assert len(names["vectors"]) == len(some_crystals())
    with pytest.raises(ValueError, match=r"an objective is no recipe, .* describe"):
        parts_of(names["objective"])


def test_a_name_that_nobody_gave_is_found():
    assert unknown("import a.b\nfrom c import d as e\nx = a.f(e, Path('g'), structures)\n") == {"Path"}


def test_there_are_pieces_to_look_at():
    assert len(SNIPPETS) > 8


def test_every_page_is_named_in_the_readme_the_index_and_the_navigation():
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    for text, others in (("README.md", {"api.md"}), ("docs/index.md", set()), ("mkdocs.yml", set())):
        named = (ROOT / text).read_text(encoding="utf-8")
        assert {page for page in pages - others if page not in named} == set(), text
