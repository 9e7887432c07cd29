"""Rewrites the tables of the documentation from what lies in benchmarks/results.

    python benchmarks/table.py

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`, where NAME is one of `TABLES`. A test fails
where a page does not say what the results say. A number that reaches its goal is bold.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import commits
import entries
import options
import paper
from entries import joined
from few_labels import DEFAULT, POTENTIALS, THEIRS

from crystalmax.judging.evaluation import TRIVIAL

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SETS = ("perov_5", "carbon_24", "matbench_phonons")
RATES = "crystals_per_cpu_second"
_BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


class Claim(NamedTuple):
    """A line of the table of claims, in crystals per CPU second.

    Attributes:
        what: The work.
        reference: The same work in a port of the published code, for each of `SETS` or as one text for all.
        goals: What must be reached on each of `SETS`.
        stages: Names of stages in `results/speed_*.json` that are done one after another; of several such rows of
            names, the first that was measured counts.
    """

    what: str
    reference: str
    goals: tuple[float, float, float]
    stages: tuple[tuple[str, ...], ...]


_TO_RAW, _TO_CELL, _TO_PAIRS = "CIF text to raw arrays", "raw to canonical arrays", "arrays to pairs"
_TO_VECTORS = "data set to vectors"
CLAIMS = (
    Claim("parsed structure to canonical cell and pairs", "18.6", (1900,) * 3, ((_TO_CELL, _TO_PAIRS),)),
    Claim("CIF text to arrays in the canonical cell", "< 18", (1500,) * 3, ((_TO_RAW, _TO_CELL),)),
    Claim(
        "training, losses exact",
        "238 / 123 / 166",
        (2400, 1500, 1700),
        (("training, losses exact",), ("training step, paper recipe",)),
    ),
    Claim(
        "training, unbiased shortcuts",
        "none",
        (4000, 2500, 2800),
        (("training, unbiased shortcuts",), ("training step, unbiased shortcuts",), ("training step, fast recipe",)),
    ),
    Claim("data set to vectors", "1,487 / 1,032 / 1,118", (15000,) * 3, ((_TO_VECTORS,),)),
    Claim("CIF text to vector", "< 18", (1200,) * 3, (("CIF text to vectors",), (_TO_RAW, _TO_CELL, _TO_VECTORS))),
)


class Peak(NamedTuple):
    """The last line: gigabytes."""

    what: str
    reference: str
    goal: float


PEAK = Peak("peak memory, GB", "1.2 / 1.6 / 1.5", 0.6)


def results(pattern: str) -> dict[str, dict[str, Any]]:
    """Stored results by file name without ending."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob(pattern))}


def rate(stages: Mapping[str, float], names: Sequence[Sequence[str]]) -> float | None:
    """Crystals per CPU second of stages done one after another; nothing where one was not measured."""
    for row in names:
        if all(name in stages for name in row):
            return 1 / sum(1 / stages[name] for name in row)
    return None


def table(header: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    header = list(header)
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, ["---"] * len(header), *rows))


def claims() -> str:
    """What was promised beside what was measured, on the three data sets of the reference."""
    measured = [results(f"speed_{name}.json").get(f"speed_{name}", {}) for name in SETS]
    of = ", ".join(sorted({f"`{found['commit']}`" for found in measured if found}))
    rows = []
    for claim in CLAIMS:
        found = [rate(one.get(RATES, {}), claim.stages) for one in measured]
        shown = [_shown(value, goal, more=True) for value, goal in zip(found, claim.goals, strict=True)]
        goals = joined(f"{goal:,.0f}" for goal in claim.goals)
        rows.append((claim.what, claim.reference, goals, joined(shown), of))
    peaks = [_shown(one.get("peak_GB"), PEAK.goal, more=False) for one in measured]
    rows.append((PEAK.what, PEAK.reference, str(PEAK.goal), joined(peaks), of))
    return table(
        (f"crystals per CPU second: {' / '.join(SETS)}", "reference", "must reach", "measured", "commit"), rows
    )


def _shown(value: float | None, goal: float, *, more: bool) -> str:
    if value is None:
        return "not measured"
    text = f"{value:,.0f}" if more else f"{value:.2f}"
    return f"**{text}**" if (value >= goal if more else value <= goal) else text


def stages() -> str:
    """Everything in `results/speed_*.json`, a column for each data set."""
    found = results("speed_*.json")
    names = list(dict.fromkeys(name for one in found.values() for name in one.get(RATES, {})))
    header = ("crystals per CPU second", *(one["data"].removesuffix(".parquet") for one in found.values()))
    rows = [
        (name, *(f"{one[RATES][name]:,.0f}" if name in one.get(RATES, {}) else "" for one in found.values()))
        for name in names
    ]
    return table(header, rows)


def featurisers() -> str:
    """Peers and ourselves in one run."""
    (found,) = results("featurisers.json").values()
    total = {name: row["reading_ms"] + row["encoding_ms"] for name, row in found["featurisers"].items()}
    rows = [
        (
            f"{name} ({', '.join(' '.join(version) for version in row['versions'].items())})",
            f"{row['width']:,}",
            f"{row['reading_ms']:.2f}",
            f"{row['encoding_ms']:.2f}",
            f"{total[name] / total['crystalmax']:,.1f}",
            f"{row['change_with_cell']:.0e}" if row["change_with_cell"] else "0",
        )
        for name, row in sorted(found["featurisers"].items(), key=lambda item: total[item[0]])
    ]
    header = ("vector", "numbers", "reading, ms", "encoding, ms", "both, times ours", "change when the cell is doubled")
    return table(header, rows)


def pairs() -> str:
    """The lines through the cost of pairs."""
    (found,) = results("cost_of_pairs.json").values()
    rows = [
        (name, f"{line['slope']:.2f}", f"{line['fixed_ms']:.1f}", f"{line['ns_per_pair']:,.0f}")
        for name, line in found["lines"].items()
    ]
    return table(("work", "slope in log-log", "fixed, ms", "each pair, ns"), rows)


def threads() -> str:
    """A training step on cores that others use too."""
    (found,) = results("threads.json").values()
    rows = [
        (name, f"{row['median']:.2f}", f"{row['worst']:.2f}") for name, row in found["wall_seconds_of_a_step"].items()
    ]
    return table(("threads", "wall seconds of a step, median", "worst"), rows)


def processes() -> str:
    """Two processes that share a training against one."""
    (found,) = results("processes.json").values()
    largest = found["largest_difference_of_a_loss"]
    rows = [
        ("largest difference of a loss", f"{largest:.0e}" if largest else "0"),
        ("throughput of two over one, wall", f"{found['throughput_two_over_one_wall']:.2f}"),
        ("of two that train apart, wall", f"{found['throughput_two_apart_over_one_wall']:.2f}"),
        ("throughput of two over one, CPU seconds", f"{found['throughput_two_over_one_cpu']:.2f}"),
        ("CPU seconds of both together over one", f"{found['cpu_seconds_two_over_one']:.2f}"),
        ("of two that train apart", f"{found['cpu_seconds_two_apart_over_one']:.2f}"),
        ("the slower process of a step over the mean", f"{found['slower_process_over_mean']:.2f}"),
    ]
    return table(("two processes", "measured"), rows)


def few_labels() -> str:
    """The default featuriser and regressor against rivals, a row for each property."""
    (found,) = results("few_labels.json").values()
    rows = []
    for name, budgets in found["properties"].items():
        ours, statistics = (
            [row["ours"][each]["mae"] for row in budgets.values()] for each in ("default", "statistics")
        )
        plain, frozen = best_rivals(budgets, of_potentials=False), best_rivals(budgets, of_potentials=True)
        fair = name.partition(", ")[2] not in THEIRS
        rows.append(
            (
                entries.named(name),
                _errors(plain),
                _errors(frozen) if fair else "no fair rival",
                _errors(statistics),
                _errors(ours),
                _ratios(ours, plain),
                _ratios(ours, frozen) if fair else "",
                _ratios(ours, statistics),
                _ratios(of_columns(budgets), plain),
            )
        )
    head = ("best plain rival", "best frozen potential", "ours, statistics alone", "ours")
    ratios = ("to rival", "to potential", "to statistics", "our columns with the rivals' models, to rival")
    return table(("error at 50 / 100 / 250 / 1,000 labels", *head, *ratios), rows)


def blind(file: str) -> str:
    """The default featuriser and regressor against plain rivals, and what intervals hold, a row for each property."""
    (found,) = results(f"{file}.json").values()
    rows = []
    for name, budgets in found["properties"].items():
        ours, statistics = ([row["ours"][each] for row in budgets.values()] for each in ("default", "statistics"))
        plain, frozen = best_rivals(budgets, of_potentials=False), best_rivals(budgets, of_potentials=True)
        errors = [row["mae"] for row in ours]
        rows.append(
            (
                entries.named(name),
                _errors(plain),
                _errors(errors),
                _ratios(errors, plain),
                _ratios(errors, frozen) if frozen else "",
                _ratios(errors, [row["mae"] for row in statistics]),
                _ratios(of_columns(budgets), plain),
                joined(format(row["covered"], ".2f") for row in ours),
            )
        )
    head = ("error at 50 / 100 / 250 / 1,000 labels", "best plain rival", "ours")
    ratios = ("to rival", "to frozen potential", "to statistics alone", "our columns with the rivals' models, to rival")
    return table((*head, *ratios, "held by intervals of 90 %"), rows)


def paired(file: str) -> str:
    """Our error over that of others in the same draw, where each draw tests other crystals; medians over draws."""
    (found,) = results(f"{file}.json").values()
    rows = []
    for name, budgets in found["properties"].items():
        drawn = {labels: row["paired"] for labels, row in budgets.items() if "paired" in row}
        median = [ratios[TRIVIAL]["median"] for ratios in drawn.values()]
        nearest = [
            max(max(ratios.values()) for rival, ratios in row.items() if rival != TRIVIAL) for row in drawn.values()
        ]
        found_of = (joined(f"{ratio:.2f}" for ratio in ratios) for ratios in (nearest, median))
        rows.append((entries.named(name), " / ".join(drawn), *found_of))
    return table(("our error over that of", "labels", "the nearest rival", "the median of the labels"), rows)


def best_rivals(budgets: Mapping[str, Any], *, of_potentials: bool) -> list[float]:
    """The least error that any rival of a kind makes with any model, for each number of labels; none without rivals."""
    found = [
        [min(errors.values()) for name, errors in row["rivals"].items() if (name in POTENTIALS) == of_potentials]
        for row in budgets.values()
    ]
    return [min(errors) for errors in found if errors]


def of_columns(budgets: Mapping[str, Any]) -> list[float]:
    """The least error of the default columns with any of the models that rivals have, for each number of labels."""
    return [min(row["columns"][DEFAULT].values()) for row in budgets.values()]


def _errors(errors: Iterable[float]) -> str:
    return joined(f"{error:.3g}" for error in errors)


def _ratios(ours: Iterable[float], theirs: Iterable[float]) -> str:
    return joined(f"{a / b:.2f}" for a, b in zip(ours, theirs, strict=True))


def intervals() -> str:
    """How many values intervals of 90 % hold, and how wide they are, ours and others."""
    (found,) = results("few_labels.json").values()
    rows = []
    for name, budgets in found["properties"].items():
        others = [{"ours": row["ours"]["default"], **row["intervals of others"]} for row in budgets.values()]
        rows.append(
            (
                entries.named(name),
                *(
                    f"{joined(format(each[method]['covered'], '.2f') for each in others)}: "
                    f"{_errors(each[method]['width'] for each in others)}"
                    for method in others[0]
                ),
            )
        )
    return table(("held: width, at 50 / 100 / 250 / 1,000 labels", *others[0]), rows)


def rivals() -> str:
    """Each rival by itself, with the better of two models: how ours compares over properties."""
    (found,) = results("few_labels.json").values()
    ratios: dict[str, dict[str, list[float]]] = {}
    for name, budgets in found["properties"].items():
        for labels, row in budgets.items():
            for rival, errors in row["rivals"].items():
                if rival not in POTENTIALS or name.partition(", ")[2] not in THEIRS:
                    ratio = row["ours"]["default"]["mae"] / min(errors.values())
                    ratios.setdefault(rival, {}).setdefault(labels, []).append(ratio)
    rows = [
        (
            rival,
            str(max(map(len, by_labels.values()))),
            joined(f"{median(each):.2f}" for each in by_labels.values()),
            joined(f"{max(each):.2f}" for each in by_labels.values()),
        )
        for rival, by_labels in sorted(ratios.items())
    ]
    head = ("rival", "properties", "ours to it at 50 / 100 / 250 / 1,000 labels, median over properties", "highest")
    return table(head, rows)


def held() -> str:
    """How many values intervals of 90 % hold where each draw tests other crystals, a row for each property."""
    (found,) = results("intervals.json").values()
    rows = [
        (
            entries.named(name),
            *(joined(f"{100 * row[key]:.1f}" for row in budgets) for key in ("covered", "standard_error")),
        )
        for name, budgets in found["properties"].items()
    ]
    return table(("held, %, at 50 / 100 / 250 / 1,000 labels", "mean over splits", "standard error"), rows)


def searched() -> str:
    """The best trials of the search of a recipe, and the recipe as it ships."""
    (found,) = results("search.json").values()
    best, ships = found["trials"][:5], [row for row in found["trials"] if row["trial"] == 0]
    columns = [name for name in found["importance"] if name in ships[0]]
    rows = [
        (
            "as it ships" if row in ships else str(row["trial"]),
            *(f"{row[name]:.1e}" if isinstance(row[name], float) else str(row[name]) for name in columns),
            f"{row['cpu_seconds']:.0f}",
            f"{row['score']:+.3f}",
        )
        for row in best + ships
    ]
    return table(("trial", *(name.replace("_", " ") for name in columns), "CPU s", "score"), rows)


def blocks(file: str = "blocks") -> str:
    """What vectors are worth that were told blocks of statistics by these weights."""
    (found,) = results(f"{file}.json").values()
    rows = [
        (name, ", ".join(f"{weight:g}" for weight in each["weights"]), f"{each['score']:+.3f}", *_of_seeds(each))
        for name, each in found["weightings"].items()
    ]
    return table(("told", "weights", "score", *(["of each seed"] if len(rows[0]) > 3 else [])), rows)


def _of_seeds(each: Mapping[str, Any]) -> list[str]:
    """The score of each seed, where there are several."""
    return [" / ".join(f"{score:+.3f}" for score in each["scores"])] if len(each.get("scores", ())) > 1 else []


def large() -> str:
    """What grows with the number of crystals, a column for each number."""
    (found,) = results("large.json").values()
    sizes = {row["crystals"]: row for row in found["sizes"]}
    stores = [row.get("ingest") or row["ingest_objects"] for row in sizes.values()]
    told = [row.get("intrinsic") or row["intrinsic_made_up"] for row in sizes.values()]

    def memory(stages: Iterable[Mapping[str, Any]]) -> list[str]:
        return ["{anonymous} / {resident}".format(**each["MiB_most"]) for each in stages]

    rows = [
        (
            "ingest, crystals a CPU second",
            *(
                f"{store['crystals_per_cpu_second']:,}{'' if 'ingest' in row else ' (from objects)'}"
                for store, row in zip(stores, sizes.values(), strict=True)
            ),
        ),
        ("data set, MB", *(f"{store['bytes'] / 1e6:.0f}" for store in stores)),
        ("open it, ms", *(f"{1e3 * row['open']['seconds']:.0f}" for row in sizes.values())),
        ("memory of ingest, MiB, anonymous / resident", *memory(stores)),
        ("memory of `infomax`", *memory(row["infomax"] for row in sizes.values())),
        ("memory of `intrinsic`", *memory(told)),
    ]
    for recipe in ("infomax", "intrinsic"):
        turns = found["turns"][recipe]
        small, *_, most = (f"{median(each):.0f}" for each in turns["step_cpu_ms"].values())
        rows.append((f"`{recipe}`: CPU ms a step, in turns", small, *[""] * (len(sizes) - 2), most))
    return table(("", *(f"10^{len(str(size)) - 1}" for size in sizes)), rows)


def vectors(file: str = "vectors") -> str:
    """The weights that ship against untrained networks, a row for each property."""
    (found,) = results(f"{file}.json").values()
    rows = []
    for name, row in found["properties"].items():
        columns = [[each[key] for each in row["budgets"]] for key in ("median", "untrained", "shipped", "ratio")]
        shown = [joined(f"{value:.3g}" for value in column) for column in columns]
        rows.append((entries.named(name), f"{row['crystals']:,}", *shown))
    return table(
        ("error at 50 / 100 / 250 / 1,000 labels", "crystals", "median", "untrained", "shipped", "ratio"), rows
    )


def continued() -> str:
    """Weights that went on learning, or learnt anew, from the structures of each property."""
    (found,) = results("continued.json").values()
    rows = [
        (
            entries.SHORT[name.partition(", ")[2]],
            f"{row['structures']:,}",
            *(joined(map(str, row[way].values())) for way in ("continued", "alone")),
        )
        for name, row in found["properties"].items()
    ]
    return table(("at 50 / 100 / 250 labels", "structures", "from the weights that ship", "from these alone"), rows)


def levers(name: str = "levers") -> str:
    """Recipes with one thing changed, a table for each recipe."""
    (found,) = results(f"{name}.json").values()
    return "\n".join(table(*entries.levers(recipe, rows)) for recipe, rows in found["levers"].items())


def rules() -> str:
    """What it costs to stop by what can be watched without labels."""
    (found,) = results("stopping.json").values()
    return table(*entries.rules(found))


def starts(file: str = "fine_tuning") -> str:
    """Fine-tuning from the weights that ship and from random ones, a row for each property and number of labels."""
    (found,) = results(f"{file}.json").values()
    rows = [
        (entries.named(name), labels, *errors, f"{row['ratio']:.2f}", f"{row['won']} of {row['trials']}")
        for name, budgets in found["properties"].items()
        for labels, row in budgets.items()
        for errors in [[f"{row[start]:.3g}" for start in ("median", "random", "shipped")]]
    ]
    return table(
        ("fine-tuned", "labels", "median", "from random weights", "from those that ship", "ratio", "won"), rows
    )


def networks() -> str:
    """The regressor for few labels with fine-tuned networks among its members and without, a row for each property."""
    (found,) = results("networks.json").values()
    rows = [
        (
            entries.named(name),
            labels,
            *(f"{row[each]:.3g}" for each in ("without", "with")),
            f"{row['ratio']:.2f}",
            f"{row['won']} of {len(row['errors']['with'])}",
            f"{100 * row['share']:.0f}",
            f"{row['covered with']:.2f}: {row['width with'] / row['width without']:.2f}",
        )
        for name, budgets in found["properties"].items()
        for labels, row in budgets.items()
    ]
    errors, held = ("without networks", "with networks"), "intervals of 90 % hold: width to that without"
    return table(("error", "labels", *errors, "ratio", "won", "share of networks, %", held), rows)


def fine_tuning() -> str:
    """Errors of fine-tuned networks, the paper's and ours."""
    return table(("", "start", "paper", "here"), paper.figure_7(paper.kept()))


def put_to_the_test() -> str:
    """The paper's claims, and what came out here."""
    return table(
        ("figure", "ratio of errors", "paper", "here, recipe `paper`", "here, recipe `infomax`"),
        paper.put_to_the_test(paper.kept()),
    )


def rankings() -> str:
    """Every method on every property, a table for each."""
    rows = paper.kept()
    return "\n".join(
        table((f"{words}, error at 50 / 100 / 250 / 1,000 labels", "best model", ""), paper.ranking(rows, name))
        for name, words in paper.WORDS.items()
    )


def official() -> str:
    """Official folds of matbench_phonons."""
    return table(("official folds, phonons", "best model", "error, cm-1"), paper.official(paper.kept()))


def grid() -> str:
    """What each change of a recipe does to each property, a table for each recipe."""
    rows = paper.kept()
    last = ("deviation between seeds of untrained networks", *paper.spread_of_seeds(rows))
    return "\n".join(
        table((f"recipe `{recipe}`", *paper.WORDS.values()), [*paper.grid(rows, recipe), last])
        for recipe in ("infomax", "paper")
    )


def encoders() -> str:
    """Four encoders and their objectives, a table for each property."""
    rows, costs = paper.kept(), paper.kept_costs()
    return "\n".join(
        table(
            (words, "best model", "error", "ratio to untrained", "parameters", "seconds of an epoch"),
            paper.of_encoders(rows, name, costs),
        )
        for name, words in paper.WORDS.items()
    )


def commands() -> str:
    """Options of every command, as the code has them."""
    header = ("option", "unless given", "what")
    return "".join(f"\n### `{name}`\n\n{table(header, rows)}" for name, rows in options.commands().items()) + "\n"


def measured() -> str:
    """Which commit each error is of, a row for each property and file."""
    known = {name: found.get("commits", {}) for name, found in results("*.json").items()}
    return table((*commits.HEAD, *commits.STARTS), commits.rows(known))


def training() -> str:
    """Keys of a recipe's `[training]`, as the code has them."""
    return table(("key", "unless given", "what"), options.training())


TABLES = {
    "claims": claims,
    "commands": commands,
    "training": training,
    "stages": stages,
    "featurisers": featurisers,
    "pairs": pairs,
    "threads": threads,
    "processes": processes,
    "few_labels": few_labels,
    "intervals": intervals,
    "rivals": rivals,
    "blind": partial(blind, "few_labels_blind"),
    "blind_anew": partial(blind, "few_labels_blind_anew"),
    "blind_paired": partial(paired, "few_labels_blind_anew"),
    "blind_vectors": partial(vectors, "vectors_blind"),
    "blind_starts": partial(starts, "fine_tuning_blind"),
    "later": partial(blind, "few_labels_later"),
    "later_paired": partial(paired, "few_labels_later"),
    "later_vectors": partial(vectors, "vectors_later"),
    "moduli": partial(blind, "few_labels_tensors"),
    "moduli_vectors": partial(vectors, "vectors_tensors"),
    "moduli_starts": partial(starts, "fine_tuning_tensors"),
    "blocks": blocks,
    "blocks_at_length": partial(blocks, "blocks_at_length"),
    "blocks_of_seeds": partial(blocks, "blocks_of_seeds"),
    "blocks_with_moduli": partial(blocks, "blocks_with_moduli"),
    "held": held,
    "searched": searched,
    "large": large,
    "vectors": vectors,
    "continued": continued,
    "levers": levers,
    "levers_at_length": partial(levers, "levers_at_length"),
    "rules": rules,
    "starts": starts,
    "networks": networks,
    "fine_tuning": fine_tuning,
    "put_to_the_test": put_to_the_test,
    "rankings": rankings,
    "official": official,
    "grid": grid,
    "encoders": encoders,
    "measured": measured,
}


def refreshed(text: str) -> str:
    """A page with its tables written anew."""
    return _BLOCK.sub(lambda block: block[1] + TABLES[block[2]]() + block[3], text)


def pages() -> list[Path]:
    """Pages of the documentation that have such tables."""
    return [page for page in sorted((ROOT / "docs").rglob("*.md")) if _BLOCK.search(page.read_text(encoding="utf-8"))]


if __name__ == "__main__":
    for page in pages():
        page.write_text(refreshed(page.read_text(encoding="utf-8")), encoding="utf-8")
        print(page.relative_to(ROOT))
