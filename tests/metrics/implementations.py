"""Every declared metric computed twice for a random input: by the suite, and by an independent implementation."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from open_clip import build_zero_shot_classifier
from open_clip.loss import ClipLoss
from scipy import optimize, stats
from torch import Tensor, nn
from torch_fidelity.metric_fid import (  # type: ignore[import-untyped]
    fid_features_to_statistics,
    fid_statistics_to_metric,
)
from torch_fidelity.metric_kid import kernel_mmd  # type: ignore[import-untyped]
from transformers import GPT2Config, GPT2LMHeadModel

from experiments.diffusion.config import NoiseConfig
from experiments.diffusion.forward_process import ForwardProcess
from experiments.finetuning.classification import ClassifiedTexts, TextClassification, text_metrics
from experiments.finetuning.glue import NO_ANSWER, TASKS
from experiments.finetuning.text_to_text import answer_metrics
from experiments.harness.config import FlatnessConfig
from experiments.harness.seeds import derive_seed
from experiments.image_classification.real_labels import real_sums
from experiments.language_modeling import next_token
from experiments.language_modeling.data import TokenSplit
from experiments.lit.evaluation import (
    PairInputs,
    ZeroShotInputs,
    pair_metrics,
    pair_sums,
    zero_shot_metrics,
    zero_shot_sums,
)
from experiments.metrics.classification import (
    calibrated_losses,
    calibration_error,
    classification_metrics,
    classification_sums,
    confidence_sums,
    temperature_nats,
)
from experiments.metrics.clip_score import clip_scores
from experiments.metrics.feature_distances import (
    covariance_root,
    cross_kernel,
    frechet_distance,
    kernel_distance,
    moments,
    own_kernel,
)
from experiments.metrics.perplexity import perplexity_metrics
from tests.diffusion.test_sampler import signal_of
from tests.harness.test_flatness import around
from tests.language_modeling.test_windows import packed, rolling_windows

Values = dict[str, float]
"""by name of the metric"""


def _sums(sums: dict[str, Tensor]) -> dict[str, Any]:
    return {name: value.tolist() for name, value in sums.items()}


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _share(right: Sequence[bool]) -> float:
    return 100 * sum(right) / len(right)


def classification(rng: np.random.Generator) -> tuple[Values, Values]:
    """Logits that are right more often than by chance."""
    labels = rng.integers(0, 20, 301)
    logits = (rng.normal(size=(301, 20)) + 2 * np.eye(20)[labels]).astype(np.float32)
    real = np.where(rng.random((301, 3)) < 0.4, -1, rng.integers(0, 20, (301, 3)))
    both = torch.from_numpy(logits), torch.from_numpy(labels)
    ours = classification_metrics(_sums(classification_sums(*both)))
    sums = _sums(real_sums(both[0], torch.from_numpy(real)))
    ours |= {"real_top1": 100 * sums["real_top1"] / sums["real_count"], "v2_top1": ours["top1"]}

    order = [sorted(range(20), key=lambda c, row=row: -row[c]) for row in logits.tolist()]  # type: ignore[misc]
    nats = -_log_softmax(logits.astype(np.float64))[np.arange(301), labels]
    top1 = _share([row[0] == label for row, label in zip(order, labels, strict=True)])
    labelled = [(row[0], {*labels} - {-1}) for row, labels in zip(order, real.tolist(), strict=True)]
    theirs = {
        "loss": float(nats.mean()),
        "top1": top1,
        "v2_top1": top1,
        "top5": _share([label in row[:5] for row, label in zip(order, labels, strict=True)]),
        "real_top1": _share([first in right for first, right in labelled if right]),
    }
    return ours, theirs


def calibration(rng: np.random.Generator) -> tuple[Values, Values]:
    """Logits of a validation and a test split, too large or too small."""
    splits, factor = [], np.exp(rng.normal())
    for _ in range(2):
        labels = rng.integers(0, 7, 400)
        logits = (factor * (rng.normal(size=(400, 7)) + 2 * np.eye(7)[labels])).astype(np.float32)
        splits.append((torch.from_numpy(logits), torch.from_numpy(labels)))
    val_nats, nats = (temperature_nats(*split).sum(0).tolist() for split in splits)
    sums = _sums(confidence_sums(*splits[1]))
    ours = {
        "calibrated_loss": float(calibrated_losses(nats, val_nats)) / 400,
        "calibration_error": calibration_error(sums["confidence"], sums["confident_right"], 400),
    }

    def loss(log_temperature: float, logits: Tensor, labels: Tensor) -> float:
        log_p = _log_softmax(logits.double().numpy() / math.exp(log_temperature))
        return float(-log_p[np.arange(len(labels)), labels.numpy()].mean())

    fitted = optimize.minimize_scalar(loss, bounds=(-4, 4), args=splits[0], method="bounded", options={"xatol": 1e-9}).x
    said = [(max(row), row.index(max(row))) for row in np.exp(_log_softmax(splits[1][0].double().numpy())).tolist()]
    gap = 0.0
    for low in range(15):  # Guo et al., equation 3
        inside = [n for n, (confidence, _) in enumerate(said) if low / 15 <= confidence < (low + 1) / 15]
        gap += abs(math.fsum(said[n][0] - (said[n][1] == splits[1][1][n].item()) for n in inside)) / len(said)
    return ours, {"calibrated_loss": loss(fitted, *splits[1]), "calibration_error": 100 * gap}


def texts(rng: np.random.Generator) -> tuple[Values, Values]:
    """Logits of four classes."""
    labels = rng.integers(0, 4, 200)
    logits = (rng.normal(size=(200, 4)) + np.eye(4)[labels]).astype(np.float32)
    split = ClassifiedTexts(lambda numbers: torch.from_numpy(logits[numbers]), np.full(200, 4), labels)
    task: Any = SimpleNamespace(splits={"test": split}, _num_classes=4)
    model = nn.Linear(4, 4, bias=False)
    nn.init.eye_(model.weight)  # returns what it is given
    with torch.no_grad():
        ours = text_metrics(_sums(TextClassification._sums(task, "test", model, 0, 1)))
    guesses, f1 = np.array([row.index(max(row)) for row in logits.tolist()]), []
    for label in range(4):
        found, there = guesses == label, labels == label
        f1.append(100 * stats.hmean([there[found].mean(), found[there].mean()]))
    nats = -_log_softmax(logits.astype(np.float64))[np.arange(200), labels]
    return ours, {"loss": nats.mean(), "accuracy": _share(list(labels == guesses)), "f1": float(np.mean(f1))}


def glue(rng: np.random.Generator) -> tuple[Values, Values]:
    """Two classes or a similarity; one answer in ten is invalid."""
    theirs: Values = {}
    sums: dict[str, Any] = {"loss": 0.0, "count": 0, "invalid": 0, "cut": 0}
    parts = {f"{task}{part}": task for task, declared in TASKS.items() for part in declared.test_splits}
    for part, task in parts.items():
        labels = np.round(rng.uniform(0, 5, 150) * 5) / 5 if task == "stsb" else 1.0 * rng.integers(0, 2, 150)
        other = np.round(rng.uniform(0, 5, 150) * 5) / 5 if task == "stsb" else 1 - labels
        meant = np.where(rng.random(150) < 0.7, labels, other)
        meant = np.where(rng.random(150) < 0.1, NO_ANSWER, meant)
        sums |= {f"{part}/labels": labels.tolist(), f"{part}/meant": meant.tolist(), "count": sums["count"] + 150}
        sums["invalid"] += int((meant == NO_ANSWER).sum())
        right = _share(list(labels == meant))
        if task == "stsb":
            theirs["stsb_pearson"] = 100 * float(stats.pearsonr(labels, meant).statistic)
            theirs["stsb_spearman"] = 100 * float(stats.spearmanr(labels, meant).statistic)
        elif task == "cola":  # Gorodkin's correlation of the classes' indicators, where "none" is not a separate class
            x, y = ([[value == kind for kind in (0, 1, NO_ANSWER)] for value in values] for values in (labels, meant))
            a, b = (np.array(values, float) - np.mean(values, 0) for values in (x, y))
            theirs["cola"] = 100 * float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))
        elif task in ("mrpc", "qqp"):
            said = [1 - label if value == NO_ANSWER else value for label, value in zip(labels, meant, strict=True)]
            hits = sum(label == value == 1 for label, value in zip(labels, said, strict=True))
            theirs[f"{task}_f1"] = 100 * stats.hmean([hits / said.count(1), hits / int(labels.sum())])
            theirs[f"{task}_accuracy"] = right
        else:
            theirs[part] = right
    theirs["average"] = float(np.mean(list(theirs.values())))
    theirs["invalid_answers"] = 100 * np.mean([value == -1 for part in parts for value in sums[f"{part}/meant"]])
    rows: Any = {part: SimpleNamespace(task=task) for part, task in parts.items()}
    return answer_metrics(rows, sums), theirs


TOWERS: Any = SimpleNamespace(
    logit_scale=torch.zeros(()), embed_images=torch.clone, embed_texts=torch.clone, scale=lambda: torch.tensor(12.0)
)
"""Two towers that return what they are given."""


def _units(rng: np.random.Generator, count: int, near: np.ndarray | None = None) -> np.ndarray:
    vectors = rng.normal(size=(count, 24)) + (0 if near is None else 2 * near)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def pairs(rng: np.random.Generator) -> tuple[Values, Values]:
    """120 images with one to three captions each."""
    starts = np.cumsum([0, *rng.integers(1, 4, 120)])
    owners = np.repeat(np.arange(120), np.diff(starts))
    images = _units(rng, 120)
    captions = _units(rng, len(owners), images[owners])
    inputs = PairInputs(lambda n: torch.from_numpy(images[n]), lambda n: torch.from_numpy(captions[n]), starts)
    ours = pair_metrics(_sums(pair_sums(TOWERS, inputs, 0, 1, calibrates=True)))
    del ours["logit_scale"]

    cosines = images.astype(np.float64) @ captions.astype(np.float64).T
    theirs: Values = {}
    for rank in (1, 5, 10):
        found = np.argsort(-cosines, 1)[:, :rank]
        theirs[f"i2t_recall{rank}"] = _share([image in owners[found[image]] for image in range(120)])
        found = np.argsort(-cosines.T, 1)[:, :rank]
        theirs[f"t2i_recall{rank}"] = _share([owners[text] in found[text] for text in range(len(owners))])
    theirs["mean_recall"] = float(np.mean(list(theirs.values())))
    first = torch.from_numpy(captions[starts[:-1]]).double()

    def loss(log_temperature: float) -> float:
        scale = TOWERS.scale().double() / math.exp(log_temperature)
        return ClipLoss()(torch.from_numpy(images).double(), first, scale).item()

    theirs["loss"] = loss(0.0)
    theirs["calibrated_loss"] = float(optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded").fun)
    of_sets = [{f"_{name}": value for name, value in values.items()} for values in (ours, theirs)]
    return ours | of_sets[0], theirs | of_sets[1]


def zero_shot(rng: np.random.Generator) -> tuple[Values, Values]:
    """Images of 12 classes, three prompts per class."""
    prompts, labels = _units(rng, 36), rng.integers(0, 12, 250)
    images = _units(rng, 250, prompts.reshape(12, 3, 24).mean(1)[labels])
    inputs = ZeroShotInputs(
        lambda n: torch.from_numpy(images[n]), labels, lambda n: torch.from_numpy(prompts[n]), 36, 12
    )
    found = zero_shot_metrics(_sums(zero_shot_sums(TOWERS, inputs, 0, 1)))
    clip = SimpleNamespace(encode_text=lambda numbers, normalize: torch.from_numpy(prompts).double()[numbers])
    classifier = build_zero_shot_classifier(
        clip, lambda names: torch.tensor([int(name) for name in names]), [str(n) for n in range(12)],
        [lambda name, t=t: str(3 * int(name) + t) for t in range(3)],
    )  # fmt: skip
    order = np.argsort(-(images @ classifier.numpy()), 1)
    ours, theirs = {}, {}
    for rank in (1, 5):
        share = _share([label in row[:rank] for row, label in zip(order, labels, strict=True)])
        for start in ("zero_shot_top", "_top"):
            ours[f"{start}{rank}"], theirs[f"{start}{rank}"] = found[f"top{rank}"], share
    return ours, theirs


def language(rng: np.random.Generator) -> tuple[Values, Values]:
    """Documents of several windows, by a small GPT-2 of transformers."""
    words = ["".join(rng.choice(list("abcdé"), rng.integers(1, 7))) for _ in range(60)]
    raw = [" ".join(part) for part in np.split(np.array(words), [9, 31])]
    documents = [[byte + 1 for byte in text.encode()] for text in raw]
    tokens, starts = packed(documents)
    torch.manual_seed(int(rng.integers(2**31)))
    model = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=16, n_embd=16, n_layer=2, n_head=2)).eval()
    for parameter in model.parameters():
        parameter.data *= 4
    size, said = np.array([[len(text.encode()), len(text.split())] for text in raw]).T
    split = TokenSplit(tokens, starts, size, said)
    with torch.no_grad():
        ours = perplexity_metrics(_sums(next_token.sums(model, split, 16, 300, 0, 1)))
        exact, nats = model.double(), 0.0
        for document in documents:
            for inputs, continuation in rolling_windows(document, 16):
                logits = exact(torch.tensor([inputs])).logits[0].numpy()[-len(continuation) :]
                nats -= _log_softmax(logits)[np.arange(len(continuation)), continuation].sum()
    nats_each, nats_a_word = nats / sum(map(len, documents)), nats / said.sum()
    theirs = {"loss": nats_each, "log_perplexity": nats_each, "perplexity": math.exp(nats_each)}
    theirs |= {"bits_per_byte": nats / size.sum() / math.log(2)}
    return ours, theirs | {"word_log_perplexity": nats_a_word, "word_perplexity": math.exp(nats_a_word)}


def images(rng: np.random.Generator) -> tuple[Values, Values]:
    """Features of two sets, correlated and non-negative like a network's."""
    mixing = rng.normal(size=(48, 48)) / np.arange(1, 49)[:, None]
    a, b = (np.maximum(rng.normal(size=(300, 48)) @ mixing + shift, 0) for shift in (0.1, 0.0))
    mean, covariance = moments(b)
    fid = frechet_distance(*moments(a), mean, covariance_root(covariance))
    kid = kernel_distance(own_kernel(a), own_kernel(b), cross_kernel(a, b))
    statistics = (fid_features_to_statistics(torch.from_numpy(each)) for each in (a, b))
    their_fid = fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    their_kid = float(kernel_mmd(a, b, kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_coef0=1))
    names = ("fid", "fd_efficientnet_lite0", "kid", "kid_efficientnet_lite0")
    both = (fid, fid, kid, kid), (their_fid, their_fid, their_kid, their_kid)
    return dict(zip(names, both[0], strict=True)), dict(zip(names, both[1], strict=True))


def clip(rng: np.random.Generator) -> tuple[Values, Values]:
    """Vectors of any length, half of the pairs at an angle above 90 degrees."""
    a, b = rng.normal(size=(2, 80, 24)).astype(np.float32)
    cosines = [
        max(0.0, math.fsum(x * y for x, y in zip(p, q, strict=True)) / (math.hypot(*p) * math.hypot(*q)))
        for p, q in zip(a.tolist(), b.tolist(), strict=True)
    ]
    ours = clip_scores(torch.from_numpy(a), torch.from_numpy(b)).mean().item()
    return {"clip_score": ours}, {"clip_score": math.fsum(cosines) / 80}


def noise(rng: np.random.Generator) -> tuple[Values, Values]:
    """A network's velocity prediction, scored as the noise that it implies."""
    pictures, truth, said = rng.normal(size=(3, 64, 3, 4, 4)).astype(np.float32)
    timesteps = rng.integers(0, 900, 64)
    process = ForwardProcess(NoiseConfig(schedule="squaredcos_cap_v2", target="v_prediction"))
    at = torch.from_numpy(timesteps)
    noisy = process.noisy(torch.from_numpy(pictures), torch.from_numpy(truth), at)
    ours = (process.epsilon(torch.from_numpy(said), noisy, at) - torch.from_numpy(truth)).square().mean().item()
    signal = signal_of("squaredcos_cap_v2", 1000)[timesteps].reshape(-1, 1, 1, 1)
    seen = np.sqrt(signal) * pictures.astype(np.float64) + np.sqrt(1 - signal) * truth
    meant = np.sqrt(signal) * said + np.sqrt(1 - signal) * seen
    return {"loss": ours}, {"loss": float(np.square(meant - truth).mean())}


def flatness(rng: np.random.Generator) -> tuple[Values, Values]:
    """The squared error of a linear map."""
    torch.manual_seed(int(rng.integers(2**31)))
    model, inputs = nn.Linear(9, 5, bias=False), torch.from_numpy(rng.normal(size=(50, 9)).astype(np.float32))
    cfg: Any = SimpleNamespace(seed=3, flatness=FlatnessConfig(draws=4, std=0.3, samples=50))
    with torch.no_grad():
        found = around(model, lambda: model(inputs).square().mean(), cfg)
    weight, x = model.weight.detach().double().numpy(), inputs.double().numpy()
    losses = []
    for draw in range(4):
        direction = torch.randn(5, 9, generator=torch.Generator().manual_seed(derive_seed(3, "flatness", draw))).numpy()
        losses.append(np.square(x @ (weight + 0.3 * np.sqrt(np.square(weight).mean()) * direction).T).mean())
    theirs = {"train_loss": float(np.square(x @ weight.T).mean()), "perturbed_loss": float(np.mean(losses))}
    return found, theirs
