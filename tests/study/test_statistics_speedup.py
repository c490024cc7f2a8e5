"""The speed-up in both directions on hand-made curves, and its bias for runs of the same optimizer."""

import numpy as np
import pytest

from experiments.study.statistics import Curve, Reach, Speedup, speedup

SLOW = [(100, 10.0), (200, 20.0), (300, 30.0), (400, 40.0)]
FAST = [(100, 30.0), (200, 40.0), (300, 45.0), (400, 50.0)]


def test_speedup_of_a_hand_made_pair() -> None:
    # FAST has SLOW's final 40 at step 200 of 400; SLOW never has FAST's final 50.
    assert speedup([FAST], [SLOW], better="higher") == Speedup(
        reached=1, of=1, median=2.0, reverse=Reach(0, 1, None), aa=Reach(0, 0, None)
    )
    assert speedup([SLOW], [FAST], better="higher").reached == 0
    # A run reaches its own final value at the latest at its end.
    assert speedup([SLOW], [SLOW], better="higher") == Speedup(1, 1, 1.0, Reach(1, 1, 1.0), Reach(0, 0, None))
    # The evaluation before training does not count.
    assert speedup([[(0, 99.0), *FAST]], [SLOW], better="higher") == speedup([FAST], [SLOW], better="higher")


def test_speedup_follows_the_direction_of_the_metric() -> None:
    falling_slow = [(step, -value) for step, value in SLOW]
    falling_fast = [(step, -value) for step, value in FAST]
    assert speedup([falling_fast], [falling_slow], better="lower") == speedup([FAST], [SLOW], better="higher")
    assert speedup([falling_fast], [falling_slow], better="higher").median == 4.0


def test_speedup_counts_the_first_step_that_reaches_the_target() -> None:
    bumpy = [(100, 45.0), (200, 5.0), (300, 5.0), (400, 5.0)]
    assert speedup([bumpy], [SLOW], better="higher").median == 4.0


def test_the_median_speedup_is_over_pairs_that_reached_the_target() -> None:
    never = [(100, 0.0), (400, 1.0)]
    at_once = [(100, 41.0), (400, 42.0)]
    result = speedup([FAST, never, at_once], [SLOW, SLOW, SLOW], better="higher")
    assert (result.reached, result.of, result.median) == (2, 3, (2.0 + 4.0) / 2)


def test_each_run_is_compared_only_with_its_own_partner() -> None:
    better_seed = [(step, value + 100) for step, value in SLOW]
    better_fast = [(step, value + 100) for step, value in FAST]
    result = speedup([better_fast, FAST], [better_seed, SLOW], better="higher")
    assert (result.reached, result.median) == (2, 2.0)


def test_the_aa_speedup_compares_every_run_of_b_with_every_other_of_its_group() -> None:
    # Each run reaches the lower ones only, and first at its own last step or before.
    b = [[(100, 30.0), (200, end)] for end in (40.0, 42.0, 44.0, 46.0)]
    assert speedup(b[:3], b[:3], better="higher").aa == Reach(reached=3, of=6, median=1.0)
    assert speedup([FAST] * 3, b[:3], better="higher").aa == Reach(reached=3, of=6, median=1.0)
    assert speedup(b, b, better="higher", groups=[0, 0, 1, 1]).aa == Reach(reached=2, of=4, median=1.0)


def test_noise_alone_inflates_the_speedup_and_the_aa_value_shows_it() -> None:
    rng = np.random.default_rng(0)
    steps = np.arange(25, 401, 25)

    def curves() -> list[Curve]:
        values = 60 - 600 / steps + rng.normal(0, 1, (40, 16))
        return [list(zip(steps.tolist(), run.tolist(), strict=True)) for run in values]

    result = speedup(curves(), curves(), better="higher")
    assert result.median is not None
    assert result.aa.median is not None
    assert result.median > 1.1
    assert result.aa.median == pytest.approx(result.median, abs=0.15)
    assert result.aa.of == 40 * 39


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ([[]], "finite value after step 0"),
        ([[(0, 1.0)]], "finite value after step 0"),
        ([[(100, 1.0), (200, float("nan"))]], "finite value after step 0"),
        ([SLOW, FAST], "as many curves"),
    ],
)
def test_curves_without_a_final_value_or_a_partner_are_refused(curves: list[Curve], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        speedup([SLOW], curves, better="higher")
