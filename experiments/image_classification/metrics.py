"""The metrics of image classification."""

from experiments.harness.metric import CALIBRATED_LOSS, CALIBRATION_ERROR, percent

METRICS = {
    "calibrated_loss": CALIBRATED_LOSS,
    "calibration_error": CALIBRATION_ERROR,
    "top1": percent("top-1 accuracy"),
    "top5": percent("top-5 accuracy"),
    "real_top1": percent("ReaL accuracy", splits=("test",)),
    "v2_top1": percent("ImageNetV2 top-1 accuracy", splits=("test",)),
}
