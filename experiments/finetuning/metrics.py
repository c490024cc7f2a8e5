"""The metrics of fine-tuning: those of labelled texts, and GLUE's scores, named after the tasks in glue.py."""

from experiments.harness.metric import CALIBRATED_LOSS, CALIBRATION_ERROR, Metric, percent

METRICS = {
    "calibrated_loss": CALIBRATED_LOSS,
    "calibration_error": CALIBRATION_ERROR,
    "accuracy": percent("accuracy"),
    "f1": percent("F1"),
    "average": percent("GLUE average"),
    "cola": percent("CoLA Matthews correlation"),
    "sst2": percent("SST-2 accuracy"),
    "mrpc_f1": percent("MRPC F1"),
    "mrpc_accuracy": percent("MRPC accuracy"),
    "stsb_pearson": percent("STS-B Pearson correlation"),
    "stsb_spearman": percent("STS-B Spearman correlation"),
    "qqp_f1": percent("QQP F1"),
    "qqp_accuracy": percent("QQP accuracy"),
    "mnli_matched": percent("MNLI matched accuracy"),
    "mnli_mismatched": percent("MNLI mismatched accuracy"),
    "qnli": percent("QNLI accuracy"),
    "rte": percent("RTE accuracy"),
    "invalid_answers": Metric("invalid answers", "lower", decimals=2, unit="%"),
}
