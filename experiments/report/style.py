"""How figures look: equal numbers give equal bytes, whatever a matplotlibrc of the reader's says."""

from contextlib import AbstractContextManager

import matplotlib.style

_STYLE = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def figure_style() -> AbstractContextManager[None]:
    """The style, for a ``with`` around all that makes and saves a figure."""
    context: AbstractContextManager[None] = matplotlib.style.context(["default", _STYLE])
    return context
