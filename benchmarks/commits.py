"""Which commit each error in the documentation is of, as the results keep it."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from entries import SHORT, WORDS, joined


class Files(NamedTuple):
    """Results on the same properties: of the regressor, of vectors under ridge, and of fine-tuning."""

    few_labels: str
    vectors: str = ""
    fine_tuning: str = ""


FILES = (
    Files("few_labels", "vectors", "fine_tuning"),
    Files("few_labels_blind", "vectors_blind", "fine_tuning_blind"),
    Files("few_labels_blind_anew"),
    Files("few_labels_tensors", "vectors_tensors", "fine_tuning_tensors"),
    Files("few_labels_later", "vectors_later"),
)
HEAD = ("property", "file", "ours", "our columns, other models", "rivals", "vectors")
STARTS = ("fine-tuned, from those that ship", "from random weights")


def rows(commits: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row for each file and property, from the `commits` of each file."""
    found = []
    for files in FILES:
        for target, by_labels in commits[files.few_labels].items():
            parts = [_each(row[part] for row in by_labels.values()) for part in ("ours", "columns", "rivals")]
            vectors = commits[files.vectors][target] if files.vectors else ""
            tuned = commits[files.fine_tuning][target].values() if files.fine_tuning else ()
            starts = [_each(row[start] for row in tuned) for start in ("shipped", "random")]
            words = (WORDS | SHORT)[target].partition(", ")[0]  # without the unit
            found.append((words, files.few_labels, *parts, vectors, *starts))
    return found


def _each(by_labels: Iterable[Any]) -> str:
    """The commits of each number of labels between slashes, or once where they are the same for all."""
    return joined(", ".join(sorted(_all(commits))) for commits in by_labels)


def _all(commits: Any) -> set[str]:
    """The names in a commit, a list of them or a tree of these."""
    if isinstance(commits, str):
        return {commits}
    return set().union(*map(_all, commits.values() if isinstance(commits, Mapping) else commits))
