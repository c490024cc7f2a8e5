"""Recall at rank k, with fair treatment of ties."""

import torch
from torch import Tensor

RANKS = (1, 5, 10)
TIE = 1e-5
"""Similarities (cosines in float32) that differ by less than this are ties; rounding of equal ones differs by less."""


def recall_sums(similarities: Tensor, relevant: Tensor) -> dict[str, Tensor]:
    """Sums over queries of the probability that a relevant key is among the first k, for k in RANKS, as ``recall<k>``.

    ``similarities`` float ``[queries, keys]``; ``relevant`` bool of the same shape, with at least one key per query.
    Keys tied with the best relevant one are ranked in random order, so a model that embeds everything identically
    scores at chance rather than 100 %. Sums are float64 scalars.
    """
    assert relevant.any(1).all(), "every query has a relevant key"
    similarities = similarities.double()
    best = similarities.masked_fill(~relevant, -torch.inf).amax(1, keepdim=True)
    above = (similarities > best + TIE).logical_and(~relevant).sum(1).double()
    tied = (similarities - best).abs() <= TIE
    tied_right, tied_wrong = (tied & relevant).sum(1).double(), (tied & ~relevant).sum(1).double()
    # The product below is P(no relevant key among m random ones of the tied keys), where m is how many of the k places
    # are left by the keys above.
    sums, missed = {}, torch.ones_like(above)
    rank = torch.zeros_like(above)
    for place in range(max(RANKS)):
        drawn = rank < tied_right + tied_wrong
        open_place = (place >= above) & drawn
        share_wrong = (tied_wrong - rank).clamp(min=0) / (tied_right + tied_wrong - rank).clamp(min=1)
        missed = torch.where(open_place, missed * share_wrong, missed)
        rank = rank + open_place
        if place + 1 in RANKS:
            sums[f"recall{place + 1}"] = (1 - missed).sum()
    return sums
