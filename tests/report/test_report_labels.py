"""Names and numbers as readers see them."""

from experiments.report.labels import (
    amount,
    megabytes,
    metric_title,
    minutes,
    number,
    probability,
    ranges,
    significant,
    task_name,
)


def test_number_formatting() -> None:
    assert number(61.237, 2) == "61.24"
    assert number(-0.001, 2) == "0.00"
    assert number(1.5, 2, "+") == "+1.50"
    assert number(None, 2) == "n/a"
    assert [significant(x) for x in (1e-5, 0.0123, 8.14, 31.6, 199.6, 1234.0)] == [
        *("1e-05", "0.012", "8.1", "32", "200", "1200")
    ]
    assert [probability(p) for p in (0.0, 0.00099, 0.001, 0.0346, 1.0)] == [
        *("< 0.001", "< 0.001", "0.001", "0.035", "1.000")
    ]
    assert megabytes(1_920_000) == "1.920"
    assert amount(-1.906, "test/top1") == "-1.91 points"
    assert amount(0.5, "test/fid") == "0.50"
    assert [minutes(count) for count in (0.4, 0.6, 1.4, 14.6)] == [
        *("less than 1 minute", "1 minute", "1 minute", "15 minutes")
    ]
    assert ranges([0, 1, 2, 5, 7, 8]) == "0 to 2, 5, 7 to 8"


def test_a_task_is_named_in_words_unless_it_is_a_users_own_package() -> None:
    named = {"image_classification": "image classification", "lit": "LiT", "v.collide.my_task": "v.collide.my_task"}
    assert {task: task_name(task) for task in named} == named


def test_a_metric_without_a_label_keeps_its_recorded_name() -> None:
    assert metric_title("test/top1") == "test top-1 accuracy, %"
    assert metric_title("val/log_perplexity") == "validation log-perplexity, nats"
    assert metric_title("test/edit_distance") == "test edit_distance"
