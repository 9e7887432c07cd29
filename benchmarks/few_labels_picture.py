"""Draws the errors of the table of few labels, a panel for each property.

python benchmarks/few_labels_picture.py docs/images/few_labels.svg
"""

import sys
from pathlib import Path

from few_labels import THEIRS
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from table import best_rivals, results

from crystalmax.plots import GREEN, GREYS, ORANGE, STYLE, style, svg

WORDS = {
    "last_phdos_peak_cm1": "last phonon peak, cm$^{-1}$",
    "refractive_index": "refractive index",
    "band_gap_expt_eV": "measured band gap, eV",
    "tc_K": "measured T$_\\mathrm{c}$, K",
    "formation_energy_eV_per_atom": "formation energy, eV/atom",
    "band_gap_eV": "band gap, eV",
    "seebeck_p_uV_per_K": "Seebeck, uV/K",
    "fermi_energy_eV": "Fermi energy, eV",
}
PLAIN, FROZEN, OURS = "best of ridge and trees, plain numbers", "the same, CHGNet or SevenNet", "crystalmax fit"
LOOKS = {
    PLAIN: {"color": GREYS[0], "linestyle": (0, (5, 1))},
    FROZEN: {"color": GREEN, "linestyle": (0, (1, 1))},
    OURS: {"color": ORANGE, "linewidth": 2.4},
}


@style.context(STYLE)
def draw() -> Figure:
    """Error against number of labels: medians over draws, both axes logarithmic, all panels a factor of as much."""
    (found,) = results("few_labels.json").values()
    figure = Figure(figsize=(9.6, 4.9), layout="constrained", facecolor="white")
    panels = figure.subplots(2, 4, sharex=True).flat
    for panel, (name, budgets) in zip(panels, found["properties"].items(), strict=True):
        target = name.partition(", ")[2]
        curves = {
            PLAIN: best_rivals(budgets, of_potentials=False),
            FROZEN: [] if target in THEIRS else best_rivals(budgets, of_potentials=True),
            OURS: [row["ours"]["default"]["mae"] for row in budgets.values()],
        }
        labels = [int(number) for number in budgets]
        for method, errors in curves.items():
            panel.plot(labels[: len(errors)], errors, marker="o", markersize=3.5, label=method, **LOOKS[method])
        every = [error for errors in curves.values() for error in errors]
        middle = (max(every) * min(every)) ** 0.5
        panel.set(title=WORDS[target], xscale="log", yscale="log", ylim=(middle / 3, middle * 3))
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:,.3g}")
        panel.xaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_minor_locator(NullLocator())
        panel.set_xticks([50, 100, 250, 1000], ["50", "100", "250", "1,000"])
    figure.supxlabel("labels", fontsize=9)
    figure.supylabel("mean absolute error", fontsize=9)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3)
    return figure


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(svg(draw(), "few labels"), encoding="utf-8")
