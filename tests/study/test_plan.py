import pytest

from experiments.study.plan import Settings, at_edge, best, extended, grid


def test_the_grid_holds_lr_times_decay_constant_and_rounds_to_three_digits() -> None:
    points = grid(Settings(1e-3, 0.1), [0.178, 0.562, 1.78, 5.62], [1.0])
    assert [point.lr for point in points] == [0.000178, 0.000562, 0.00178, 0.00562]
    assert [point.weight_decay for point in points] == [0.562, 0.178, 0.0562, 0.0178]
    for point in points:
        assert point.weight_decay is not None
        assert point.lr * point.weight_decay == pytest.approx(1e-4, rel=2e-3)


def test_decay_multipliers_span_a_second_axis() -> None:
    points = grid(Settings(0.01, 1.0), [1.0, 10.0], [0.5, 2.0])
    assert points == [Settings(0.01, 0.5), Settings(0.01, 2.0), Settings(0.1, 0.05), Settings(0.1, 0.2)]


def test_an_optimizer_without_decay_is_tuned_on_its_rate_alone() -> None:
    assert grid(Settings(0.01, None), [1.0, 10.0], [0.5, 2.0]) == [Settings(0.01, None), Settings(0.1, None)]
    assert Settings(0.01, None).overrides() == ["optimizer.lr=0.01"]


def test_the_best_point_is_the_highest_or_the_lowest_and_a_diverged_one_has_lost() -> None:
    low, middle, high = Settings(1, 0), Settings(2, 0), Settings(3, 0)
    values = {low: 5.0, middle: 7.0, high: None}
    assert best(values, "higher") == middle
    assert best(values, "lower") == low
    assert best({high: None}, "lower") is None


def test_edges() -> None:
    points = [Settings(lr, 0.1) for lr in (1, 2, 3)]
    assert [at_edge(point, points) for point in points] == [True, False, True]
    assert not at_edge(points[0], points[:1])


@pytest.mark.parametrize(
    ("rank", "expected"), [(0, [0.01, 0.1, 1, 10]), (1, [0.01, 0.1, 1, 10]), (2, [0.1, 1, 10, 100])]
)
def test_the_grid_grows_beyond_the_end_nearer_to_the_winner(rank: int, expected: list[float]) -> None:
    assert extended([1, 0.1, 10], rank) == pytest.approx(expected)
