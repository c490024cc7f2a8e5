"""The style of all figures: equal numbers give equal bytes, whatever the reader's matplotlibrc says."""

import io
from contextlib import AbstractContextManager
from pathlib import Path
from typing import cast

import matplotlib.style
from matplotlib import font_manager, get_data_path
from matplotlib.figure import Figure
from PIL import Image

from experiments.report.labels import Summary, task_name

_STYLE = {
    "figure.dpi": 220,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 10,
    "figure.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "lion",  # otherwise the ids in an SVG are random
}
# Only matplotlib's own fonts: a Debian machine may have DejaVu Sans in another version, with other glyphs.
font_manager.fontManager.ttflist = [
    font for font in font_manager.fontManager.ttflist if font.fname.startswith(get_data_path())
]
MOST_BYTES, SHADES = 150_000, 64
"""A PNG above this size keeps only its most frequent colours; the others come from anti-aliasing. If that is not
enough, it is drawn at half the resolution.
"""


def figure_style() -> AbstractContextManager[None]:
    """The style as a context for creating and saving a figure."""
    context: AbstractContextManager[None] = matplotlib.style.context(["default", _STYLE])
    return context


def save(figure: Figure, path: Path) -> None:
    """Write a figure as SVG or PNG, by the suffix of ``path``."""
    if path.suffix == ".svg":
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        return
    for dpi in (figure.dpi, figure.dpi / 2):
        png = _png(figure, dpi)
        if len(png) < MOST_BYTES:
            break
    path.write_bytes(png)


def _png(figure: Figure, dpi: float) -> bytes:
    drawn, reduced = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi, metadata={"Software": None})
    if len(drawn.getvalue()) < MOST_BYTES:
        return drawn.getvalue()
    with Image.open(drawn) as opened:
        image = opened.convert("RGB")
    counted = cast("list[tuple[int, tuple[int, int, int]]]", image.getcolors(image.width * image.height))
    kept = Image.new("P", (1, 1))
    kept.putpalette([level for _, color in sorted(counted, reverse=True)[:SHADES] for level in color])
    image.quantize(palette=kept, dither=Image.Dither.NONE).save(reduced, "PNG", optimize=True)
    return reduced.getvalue()


def subject(summary: Summary) -> str:
    """``image classification, cifar10``: the first line of a figure's title, since a figure may be seen on its own."""
    task = f"{task_name(summary['task'])}, {summary['data']['name']}"
    return task if summary["declared"] else f"{task} (no verdict: {summary['scale']})"
