"""The metrics of LiT: for pairs, for labelled sets, and for additional sets of pairs."""

from experiments.harness.metric import CALIBRATED_LOSS, percent

_RECALLS = {
    f"{way}_recall{rank}": f"{words} recall at {rank}"
    for way, words in (("i2t", "image-to-text"), ("t2i", "text-to-image"))
    for rank in (1, 5, 10)
}
METRICS = {
    "zero_shot_top1": percent("zero-shot top-1 accuracy"),
    "zero_shot_top5": percent("zero-shot top-5 accuracy"),
    "calibrated_loss": CALIBRATED_LOSS,
    "mean_recall": percent("mean retrieval recall"),
    **{name: percent(label) for name, label in _RECALLS.items()},
    "_top1": percent("zero-shot top-1 accuracy", sets="zero_shot"),
    "_top5": percent("zero-shot top-5 accuracy", sets="zero_shot"),
    "_mean_recall": percent("mean retrieval recall", sets="retrieval", splits=("test",)),
    **{f"_{name}": percent(label, sets="retrieval", splits=("test",)) for name, label in _RECALLS.items()},
}
