"""The tuning grid of one optimizer: its points, its winner, its edges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What is tuned."""

    lr: float
    weight_decay: float | None
    """None for an optimizer that has none"""

    def overrides(self) -> list[str]:
        """As Hydra's command line takes them."""
        decay = [] if self.weight_decay is None else [f"optimizer.weight_decay={self.weight_decay!r}"]
        return [f"optimizer.lr={self.lr!r}", *decay]


def grid(centre: Settings, lr_multipliers: Sequence[float], decay_multipliers: Sequence[float]) -> list[Settings]:
    """Learning rates around the centre; weight decay moves the other way, so that lr * weight_decay is the centre's
    product times each decay multiplier. Rounded to three digits.
    """
    points = []
    for lr_multiplier in lr_multipliers:
        lr = _rounded(centre.lr * lr_multiplier)
        if centre.weight_decay is None:
            points.append(Settings(lr, None))
            continue
        for decay_multiplier in decay_multipliers:
            points.append(Settings(lr, _rounded(centre.lr * centre.weight_decay * decay_multiplier / lr)))
    return points


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def best(values: Mapping[Settings, float | None], better: str) -> Settings | None:
    """The point with the best validation value; None marks one that diverged, which has lost. None if all have."""
    sign = 1 if better == "higher" else -1
    finite = {point: sign * value for point, value in values.items() if value is not None}
    return max(finite, key=finite.__getitem__) if finite else None


def at_edge(winner: Settings, points: Sequence[Settings]) -> bool:
    """Whether the winner has the lowest or the highest learning rate of a grid of several."""
    rates = {point.lr for point in points}
    return len(rates) > 1 and winner.lr in (min(rates), max(rates))


def extended(lr_multipliers: Sequence[float], winner_rank: int) -> list[float]:
    """The multipliers, rising, with one more beyond the end that is nearer to the winner (``winner_rank`` counts from 0
    at the lowest learning rate), at the grid's own factor.
    """
    rising = sorted(lr_multipliers)
    if winner_rank < len(rising) / 2:
        return [rising[0] * rising[0] / rising[1], *rising]
    return [*rising, rising[-1] * rising[-1] / rising[-2]]
