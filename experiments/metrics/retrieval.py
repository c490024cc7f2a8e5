"""Recall at rank k, with ties counted fairly."""

import torch
from torch import Tensor

RANKS = (1, 5, 10)
TIE = 1e-5
"""Similarities (cosines, in float32) that differ by less are ties: less than what rounding may make of equal ones."""


def recall_sums(similarities: Tensor, relevant: Tensor) -> dict[str, Tensor]:
    """Sums over queries of the chance that a relevant key is among the first k, for k in RANKS, as ``recall<k>``.

    ``similarities`` float ``[queries, keys]``; ``relevant`` bool of that shape, any number of keys a query but at least
    one. Keys tied with the best relevant one come in random order: a model that embeds everything alike gets chance,
    not 100 %. Float64 scalars.
    """
    assert relevant.any(1).all(), "every query has a relevant key"
    similarities = similarities.double()
    best = similarities.masked_fill(~relevant, -torch.inf).amax(1, keepdim=True)
    above = (similarities > best + TIE).logical_and(~relevant).sum(1).double()
    tied = (similarities - best).abs() <= TIE
    tied_right, tied_wrong = (tied & relevant).sum(1).double(), (tied & ~relevant).sum(1).double()
    # P(no relevant key in m random places of the tied ones) is the product below; m is what the keys above leave of k.
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
