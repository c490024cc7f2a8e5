"""Charts of a study's summary as plotly takes them: ``{"data": traces, "layout": layout}`` in plain data.

The customdata of a point is the id of the place on the page that a click leads to. The curves of runs, which filters
change, are drawn by assets/page.js. Names are escaped where plotly takes HTML.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from experiments.report.figures import optimizer_colors
from experiments.report.labels import (
    Summary,
    metric_of,
    metric_title,
    number,
    optimizer_name,
    scientific,
)

Chart = dict[str, Any]
Trial = dict[str, Any]
"""An entry of a summary's trials_table, with "place": the id of its row on the page"""

SYMBOLS = {"lion": "circle", "adamw": "square"}
OTHER_SYMBOL = "diamond"


def paired_differences(summary: Summary, comparison: Mapping[str, Any], places: Sequence[str]) -> Chart:
    """The difference a - b of every seed with which both completed, and the mean with its 95 % interval.

    ``places`` has an id for every seed of the summary.
    """
    a, b, difference = comparison["a"], comparison["b"], comparison["difference"]
    values = zip(summary["seeds"], comparison["per_seed"][a], comparison["per_seed"][b], places, strict=True)
    pairs = [(str(seed), x - y, place) for seed, x, y, place in values if x is not None and y is not None]
    seeds, differences, targets = zip(*pairs, strict=True)
    low, high = difference["ci95"]
    better = optimizer_name(a if comparison["better"] == "higher" else b)
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "x": list(seeds),
                "y": list(differences),
                "customdata": list(targets),
                "marker": {"color": optimizer_colors(summary["optimizers"])[a], "size": 9},
                "hovertemplate": "seed %{x}: %{y:.4g}<extra></extra>",
            },
            {
                "type": "scatter",
                "mode": "markers",
                "x": ["mean"],
                "y": [difference["mean"]],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [high - difference["mean"]],
                    "arrayminus": [difference["mean"] - low],
                },
                "marker": {"color": "#000000", "size": 10, "symbol": "diamond"},
                "hovertemplate": f"mean %{{y:.4g}}, 95 % interval {low:.4g} to {high:.4g}<extra></extra>",
            },
        ],
        "layout": {
            "xaxis": {"type": "category", "title": {"text": f"seed (above 0: {escape(better)} is better)"}},
            "yaxis": {
                "zeroline": True,
                "zerolinecolor": "#555555",
                "title": {"text": metric_of(comparison["metric"]).difference_unit},
            },
            "shapes": [_margin_band(comparison["margin"])] if comparison["margin"] else [],
        },
    }


def _margin_band(margin: float) -> dict[str, Any]:
    band = {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": -margin, "y1": margin}
    return band | {"fillcolor": "#e8e8e8", "line": {"width": 0}, "layer": "below"}


def tuning_charts(summary: Summary, trials: Mapping[str, Sequence[Trial]]) -> dict[str, Chart]:
    """By caption: a heat map for each optimizer that was tuned over weight decays too, and one chart of learning rates
    for all others. ``trials`` are by optimizer.
    """
    by_rate = {name: _by_rate(of) for name, of in trials.items() if of}
    two_settings = {name: rates for name, rates in by_rate.items() if max(map(len, rates.values())) > 1}
    one_setting = {name: rates for name, rates in by_rate.items() if name not in two_settings}
    metric = metric_title(summary["validation_metric"])
    charts = {f"{optimizer_name(name)}: {metric}": _heat_map(summary, name, of) for name, of in two_settings.items()}
    return charts | ({metric: _learning_rates(summary, one_setting)} if one_setting else {})


def _by_rate(trials: Sequence[Trial]) -> dict[float, list[Trial]]:
    """The trials of each learning rate, rising, by rising weight decay: so by lr * weight_decay, which all share."""
    rates: dict[float, list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: (trial["lr"], trial["weight_decay"] or 0)):
        rates.setdefault(trial["lr"], []).append(trial)
    return rates


def _outcome(summary: Summary, trial: Trial) -> str:
    if trial["value"] is None:
        return "diverged"
    return number(trial["value"], metric_of(summary["validation_metric"]).decimals)


def _heat_map(summary: Summary, name: str, rates: Mapping[float, Sequence[Trial]]) -> Chart:
    """Learning rates across, lr * weight_decay upwards; the cell that was chosen is marked."""
    rows = list(zip(*rates.values(), strict=True))
    # Settings are rounded, so that the products of one row differ in their third digit.
    products = [f"{row[0]['lr'] * row[0]['weight_decay']:.1e}" for row in rows]
    settings = summary["optimizers"][name]["settings"]
    chosen = (settings["lr"], settings["weight_decay"])
    return {
        "data": [
            {
                "type": "heatmap",
                "x": [scientific(rate) for rate in rates],
                "y": products,
                "z": [[trial["value"] for trial in row] for row in rows],
                "text": [
                    [
                        f"<b>{_outcome(summary, trial)}<br>chosen</b>"
                        if (trial["lr"], trial["weight_decay"]) == chosen
                        else _outcome(summary, trial)
                        for trial in row
                    ]
                    for row in rows
                ],
                "customdata": [[trial["place"] for trial in row] for row in rows],
                "texttemplate": "%{text}",
                "textfont": {"size": 12, "color": "#1a1a1a"},
                "colorbar": {"thickness": 12},
                "hovertemplate": "learning rate %{x}<br>%{text}<extra></extra>",
                "hoverongaps": True,
                "colorscale": [[0, "#f2f7fb"], [1, "#56a0d3"]],
            }
        ],
        "layout": {
            "xaxis": {"type": "category", "title": {"text": "learning rate"}},
            "yaxis": {"type": "category", "title": {"text": "weight decay x learning rate"}},
        },
    }


def _learning_rates(summary: Summary, by_rate: Mapping[str, Mapping[float, Sequence[Trial]]]) -> Chart:
    """The validation metric against the learning rate; crosses at the lower edge are trials that diverged."""
    colors = optimizer_colors(summary["optimizers"])
    traces: list[dict[str, Any]] = []
    for name, rates in by_rate.items():
        trials = [trial for of_rate in rates.values() for trial in of_rate]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": escape(optimizer_name(name)),
                "x": [trial["lr"] for trial in trials],
                "y": [trial["value"] for trial in trials],
                "customdata": [trial["place"] for trial in trials],
                "marker": {"color": colors[name], "symbol": SYMBOLS.get(name, OTHER_SYMBOL), "size": 9},
                "line": {"color": colors[name]},
                "hovertemplate": "learning rate %{x:.3g}: %{y:.4g}",
            }
        )
        if lost := [trial for trial in trials if trial["value"] is None]:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": f"{escape(optimizer_name(name))}, diverged",
                    "x": [trial["lr"] for trial in lost],
                    "y": [0.03] * len(lost),
                    "yaxis": "y2",
                    "customdata": [trial["place"] for trial in lost],
                    "marker": {"color": colors[name], "symbol": "x", "size": 10},
                    "hovertemplate": "learning rate %{x:.3g}",
                }
            )
    return {
        "data": traces,
        "layout": {
            "xaxis": {"type": "log", "exponentformat": "e", "title": {"text": "learning rate"}},
            "yaxis2": {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
            "showlegend": True,
            "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
            "margin": {"l": 50, "r": 12, "t": 28, "b": 92},
        },
    }
