"""Charts of a study's summary in plotly's format: ``{"data": traces, "layout": layout}`` as plain data.

The customdata of a point is the id of the element that a click jumps to. A colour that starts with ``--`` is defined in
assets/page.css, in a light and a dark version. The curves of runs, which filters can change, are drawn by
assets/page.js. Names are escaped wherever plotly interprets HTML.
"""

from collections.abc import Mapping, Sequence
from html import escape
from statistics import median
from typing import Any

from experiments.report.figures import optimizer_colors, position_ticks, shown_ends
from experiments.report.labels import Summary, differences, dimension_label, metric_of, optimizer_name
from experiments.study.replicates import Replicate, ReplicateRun
from experiments.study.trials import trials_of, value_at, winner_of

Chart = dict[str, Any]

SYMBOLS = {"lion": "circle", "adamw": "square"}
OTHER_SYMBOL = "diamond"


def paired_differences(summary: Summary, comparison: dict[str, Any], places: Mapping[int, str]) -> Chart:
    """The difference a - b of every replicate in which both completed, and the mean with its 95 % interval. The margin
    is drawn behind the mean only: a tie is about the mean, not about single replicates.

    ``places`` has an element id for every replicate, including reproductions.
    """
    a, b, difference = comparison["a"], comparison["b"], comparison["difference"]
    points, new = differences(summary, comparison)
    low, high = difference["ci95"]
    color = optimizer_colors(summary["optimizers"])[a]
    better = optimizer_name(a if comparison["better"] == "higher" else b)
    above, below = high - difference["mean"], difference["mean"] - low
    mean = {
        "type": "scatter",
        "mode": "markers",
        "x": ["\N{BLACK DIAMOND}"],  # a word would overlap the neighbouring numbers
        "y": [difference["mean"]],
        "error_y": {"type": "data", "symmetric": False, "array": [above], "arrayminus": [below]},
        "marker": {"color": "--ink", "size": 10, "symbol": "diamond"},
        "hovertemplate": f"mean %{{y:.4g}}<br>95 % interval {low:.4g} to {high:.4g}<br>"
        f"90 % interval {difference['ci90'][0]:.4g} to {difference['ci90'][1]:.4g}<extra></extra>",
    }
    unit = metric_of(comparison["metric"]).difference_unit
    drawn = [0.0, low, high, *comparison["prediction95"], *points.values(), *new.values()]
    room = 0.06 * (max(drawn) - min(drawn))
    line = {"color": "--quiet", "dash": "dash", "width": 1}
    shapes = [_band(end, end, line=line) for end in comparison["prediction95"]]
    if (margin := comparison["margin"]) is not None:
        at = len(points)  # the mean comes after the replicates
        own = {"xref": "x", "x0": at - 0.4, "x1": at + 0.4}
        shapes.append(_band(-margin, margin, line={"width": 0}, fillcolor="--band") | own)
    return {
        "data": [
            _replicates(points, places, color, "circle"),
            mean,
            *([_replicates(new, places, color, "circle-open")] if new else []),
        ],
        "layout": {
            "xaxis": {"type": "category", "title": {"text": "replicate"}, "tickangle": 0, "tickfont": {"size": 11}},
            "yaxis": {
                "range": [min(drawn) - room, max(drawn) + room],  # plotly's own range ignores the lines and the band
                "zeroline": True,
                "zerolinecolor": "--quiet",
                "title": {"text": "<br>".join(filter(None, [f"above 0: {escape(better)} is better", unit]))},
            },
            "shapes": shapes,
        },
    }


def _replicates(points: Mapping[int, float], places: Mapping[int, str], color: str, symbol: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": list(map(str, points)),
        "y": list(points.values()),
        "customdata": [places[number] for number in points],
        "marker": {"color": color, "size": 9, "symbol": symbol},
        "hovertemplate": "replicate %{x}: %{y:.4g}<extra></extra>",
    }


def _band(low: float, high: float, **style: Any) -> dict[str, Any]:
    return {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": low, "y1": high, "layer": "below", **style}


def ease_of_tuning(summary: Summary) -> Chart:
    """The best validation value after k trials: the median over the replicates, and each replicate."""
    colors = optimizer_colors(summary["optimizers"])
    traces: list[dict[str, Any]] = []
    for name, optimizer in summary["optimizers"].items():
        found = optimizer["best_so_far"]
        trials = list(range(1, len(found[0]) + 1))
        line = {"color": colors[name], "shape": "hv"}
        known = {k: [of[k - 1] for of in found if of[k - 1] is not None] for k in trials}
        whole = [k for k in trials if len(known[k]) == len(found)]
        middle = [median(known[k]) for k in whole]
        traces += [
            {"type": "scatter", "mode": "lines", "x": trials, "y": of, "line": {**line, "width": 1}, "opacity": 0.3}
            | {"hovertemplate": f"replicate {number}, %{{x}} trials: %{{y:.4g}}<extra></extra>", "showlegend": False}
            for number, of in zip(summary["replicates"], found, strict=True)
        ]
        traces.append(
            {"type": "scatter", "mode": "lines", "x": whole, "y": middle, "line": {**line, "width": 3}}
            | {"name": escape(optimizer_name(name)), "hovertemplate": "median of %{x} trials: %{y:.4g}"}
        )
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": "trials"}},
            "showlegend": True,
            "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
            "margin": {"l": 50, "r": 12, "t": 28, "b": 92},
        },
    }


def settings_scatter(summary: Summary, name: str, column: int, replicates: Sequence[Replicate]) -> Chart:
    """The validation value of every trial against dimension ``column`` of an optimizer's space. Diverged trials are
    drawn in a separate band beyond the worse end of the axis; very bad values lie outside until the reader zooms out.
    """
    space, color = summary["spaces"][name][column], optimizer_colors(summary["optimizers"])[name]
    metric, is_lower = summary["validation_metric"], summary["validation_better"] == "lower"
    trials = [(each.number, run, run.last(metric)) for each in replicates for run in trials_of(each, name)]
    known, lost = ([trial for trial in trials if (trial[2] is None) == is_lost] for is_lost in (False, True))
    winners = [(each.number, run, run.last(metric)) for each in replicates if (run := winner_of(summary, each, name))]
    best = [winner for winner in winners if winner[2] is not None]

    def drawn(shown: Sequence[tuple[int, ReplicateRun, float | None]], **marker: Any) -> dict[str, Any]:
        return {
            "type": "scatter",
            "mode": "markers",
            "x": [run.unit[column] for _, run, _ in shown],
            "y": [value for *_, value in shown],
            "text": [
                f"{value_at(space, run.unit[column]):.3g}, replicate {number}, trial {run.trial}: "
                + ("diverged" if value is None else f"{value:.4g}")
                for number, run, value in shown
            ],
            "marker": marker,
            "hovertemplate": "%{text}<extra></extra>",
        }

    axis: dict[str, Any] = {}
    if known:  # the same range as in the study's figures
        values, of_best = ([value for *_, value in of if value is not None] for of in (known, best))
        low, high = shown_ends(values, of_best, is_lower)
        room = 0.08 * (high - low) or 1.0
        axis = {"range": [low - room, high + room]}
    ticks = position_ticks(space)
    domain, band = ((0.0, 0.88), (0.9, 1.0)) if is_lower else ((0.12, 1.0), (0.0, 0.1))
    return {
        "data": [
            drawn(known, color=color, size=6, opacity=0.7),
            drawn(best, color="--ink", size=10, symbol="star"),
            drawn(lost, color=color, size=7, symbol="x") | {"y": [0.5] * len(lost), "yaxis": "y2"},
        ],
        "layout": {
            "xaxis": {"title": {"text": escape(dimension_label(space))}, "range": [-0.03, 1.03]}
            | {"anchor": "free", "position": 0, "tickvals": list(ticks), "ticktext": list(ticks.values())},
            "yaxis": {"domain": domain, **axis},
            "yaxis2": {"domain": band, "range": [0, 1], "fixedrange": True, "showgrid": False, "zeroline": False}
            | {"tickvals": [0.5], "ticktext": ["diverged"], "tickfont": {"size": 11}, "automargin": True},
            "shapes": [
                {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "yref": "paper", "y0": band[0], "y1": band[1]}
                | {"layer": "below", "line": {"width": 0}, "fillcolor": "--lost"}
            ],
        },
    }
