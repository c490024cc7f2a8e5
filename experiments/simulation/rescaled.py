"""Compare an optimizer with a copy of itself in other units: any difference found is an artefact."""

import math
from dataclasses import replace

import numpy as np

from experiments.simulation.studies import FIRST, SURFACES, Array, Design, hypercubes, loss_of, noise_of, rng_of
from experiments.study.search import Space
from experiments.study.surrogate import next_trial

STEPS, FACTOR_SUM = 500, 250.0
"""of a run; the second is the sum of a linear schedule's factors over it"""


def copy_differences(space: Space, scale: float, replicates: int, design: Design) -> list[float]:
    """Original minus copy in every replicate, in standard deviations of a run. The copy is the same optimizer with
    learning rates in units ``scale`` times smaller, in a space of its own. Both use the same seeds.

    ``space`` has a learning rate, two memories and a decay, in this order.
    """
    surface = SURFACES[1]

    def found(copied: Space, unit: float, number: int) -> float:
        noise = rng_of("copy", number)

        def run(point: Array) -> float:
            chosen = copied.arguments(point.tolist(), steps=STEPS, factor_sum=FACTOR_SUM)
            rate, decay = chosen["lr"] / unit, chosen["weight_decay"] * chosen["lr"] * FACTOR_SUM
            real = [rate, *(1 / (1 - beta) for beta in chosen["betas"]), decay]
            position = [
                math.log(max(value / each.low, 1)) / math.log(each.within(STEPS).high / each.low)
                for value, each in zip(real, space.dimensions, strict=True)
            ]
            loss = loss_of(surface, FIRST, np.array(position)[None, None], np.array(FIRST.optimum[:4])[None, None])
            return float((loss + noise_of(noise, surface, FIRST, loss))[0, 0])

        tried = list(hypercubes(rng_of("copy points", number), 1, design.stages[0])[0][:, :4])
        values = [run(point) for point in tried]
        while len(tried) < design.trials:
            tried.append(next_trial(tried, values, first=design.stages[0], total=design.trials, seed=number))
            values.append(run(tried[-1]))
        return float(np.mean([run(tried[int(np.argmin(values))]) for _ in range(design.confirm)]))

    dimensions = [
        replace(each, low=each.low * scale, high=each.high * scale) if each.kind == "rate" else each
        for each in space.dimensions
    ]
    copy = replace(space, dimensions=tuple(dimensions))
    return [(found(space, 1.0, r) - found(copy, scale, r)) / surface.noise for r in range(replicates)]
