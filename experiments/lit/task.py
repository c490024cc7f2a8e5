"""LiT: contrastive training of an image tower and a text tower, either of which may be locked."""

import json
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2

from experiments.data.copies import warn_of_copies
from experiments.data.images import Images
from experiments.data.splits import drawn_groups, sample
from experiments.data.stored import StoredSet, check_splits
from experiments.harness.errors import ConfigError, DataError, refused_as
from experiments.harness.flatness import flatness
from experiments.harness.task import Evaluator
from experiments.lit.class_names import class_names, prompt_numbers, templates
from experiments.lit.config import LitConfig
from experiments.lit.data import LitSets, Pairs, pair_splits, split_groups, zero_shot_splits
from experiments.lit.evaluation import (
    PairInputs,
    ZeroShotInputs,
    pair_metrics,
    pair_sums,
    zero_shot_metrics,
    zero_shot_sums,
)
from experiments.lit.models import (
    Pixels,
    TwoTowers,
    build_locked_tower,
    build_two_towers,
    check_batch,
    computed_once,
    contrastive_loss,
)
from experiments.metrics.classification import calibrated_example_losses
from experiments.metrics.retrieval import RANKS
from experiments.metrics.zero_shot import prompts
from experiments.pretrained.locked import Inputs, LockedPart, Rows, locked_part
from experiments.pretrained.tokenizers import stored_tokens


class Lit:
    """Pairs for training and retrieval, labelled sets for classification, and the two towers described by the
    config.
    """

    def __init__(self, cfg: LitConfig, sets: LitSets) -> None:
        check_batch(cfg.train.batch_size, cfg.train.micro_batch_size)
        if not cfg.model.image.locked and not cfg.model.text.locked:
            size = cfg.model.image_size
            with refused_as(f"The image tower cannot take images of model.image_size={size}"), torch.device("meta"):
                towers = build_two_towers(cfg.model, {}, {"image": False, "text": False})
                towers.embed_images(torch.zeros(1, 3, size, size, dtype=torch.uint8))
        self._cfg, self._sets = cfg, sets
        self.frozen_outputs: dict[str, str] = {}
        self._weights = {name: opened.load() for name, opened in sets.weights.items()}
        self._cached = computed_once(cfg)
        self._locked = {name: self._locked_part(name) for name in ("image", "text") if self._cached[name]}
        splits = pair_splits(sets.pairs)
        check_splits(splits, ("train", "val", "test"), cfg.data.name)
        self._train_images = splits["train"].images
        held_out = {name: pairs.images for name, pairs in splits.items() if name != "train"}
        for name, one in sets.zero_shot.items():
            labelled = zero_shot_splits(one, 0)
            check_splits(labelled, ("test",), f"zero_shot.{name}")
            held_out[f"zero_shot.{name}"] = labelled["test"].images
        cache, workers = sets.cache_dir, cfg.run.num_workers
        warn_of_copies(cfg.data.name, self._train_images, held_out, sets.fingerprint, cache, workers)
        for name, pairs in splits.items():
            _check_size(pairs, f"split {name} of data={cfg.data.name}")
        self.pair_inputs = {name: self._pair_inputs(pairs) for name, pairs in splits.items()}
        if cfg.data.split_seed is not None:
            self.pair_inputs |= self._drawn(cfg.data.split_seed)
        self.num_train = len(self.pair_inputs["train"].starts) - 1
        retrieved = {}
        for name, one in sets.retrieval.items():
            of_set = pair_splits(one)
            check_splits(of_set, ("test",), f"retrieval.{name}")
            retrieved[name] = of_set["test"]
        for name, pairs in retrieved.items():
            _check_size(pairs, f"data.retrieval.{name}")
        self._retrieval = {name: self._pair_inputs(pairs) for name, pairs in retrieved.items()}
        self.zero_shot_inputs = {name: self._zero_shot_inputs(name) for name in sets.zero_shot}
        self._crop = None
        if cfg.data.crop_area is not None:
            size, area = cfg.model.image_size, tuple(cfg.data.crop_area)
            self._crop = v2.RandomResizedCrop(size, area, interpolation=InterpolationMode.BICUBIC, antialias=True)
        self.evaluators = {
            "val": Evaluator("evaluate", partial(self._sums, "val"), self._metrics),
            "test": Evaluator("end", self._test_sums, self._metrics, calibrated_example_losses),
            **flatness(cfg, self.num_train, partial(self._sums, "train"), self._metrics),
        }

    def model(self) -> TwoTowers:
        """The two towers, with trained parts initialized from PyTorch's global generator or from ``data.weights``."""
        return build_two_towers(self._cfg.model, self._weights, self._cached)

    def batch(self, indices: np.ndarray, seeds: list[int]) -> dict[str, Tensor]:
        """The towers' inputs ``images`` and ``texts``; an image's seed selects one of its captions."""
        pairs = self.pair_inputs["train"]
        first, after = pairs.starts[indices], pairs.starts[indices + 1]
        chosen = first + np.array(seeds) % (after - first)
        if self._crop is None:
            return {"images": pairs.images(indices), "texts": pairs.texts(chosen)}
        cropped = []
        for index, seed in zip(indices, seeds, strict=True):
            # torchvision draws from the CPU's global generator; torch.manual_seed (all devices) is 100 times slower.
            torch.default_generator.manual_seed(seed)
            cropped.append(self._crop(self._train_images[int(index)]))
        return {"images": torch.stack(cropped), "texts": pairs.texts(chosen)}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """The contrastive loss, in nats."""
        return contrastive_loss(*model(batch["images"], batch["texts"]))

    def _test_sums(self, model: nn.Module, process: int, num_processes: int) -> dict[str, Tensor]:
        """Those of ``_sums``, the calibration of val, and under ``<set>/...`` those of the other retrieval sets."""
        assert isinstance(model, TwoTowers)
        share = process, num_processes
        sums = self._sums("test", model, *share)
        sums["val_nats"] = pair_sums(model, self.pair_inputs["val"], *share, calibrates=True)["nats"]
        return sums | _named({name: pair_sums(model, pairs, *share) for name, pairs in self._retrieval.items()})

    def _sums(self, split: str, model: nn.Module, process: int, num_processes: int) -> dict[str, Tensor]:
        """Those of the split's pairs, of train flatness.samples, and under ``<set>/...`` those of the labelled sets."""
        assert isinstance(model, TwoTowers)
        pairs, share = self.pair_inputs[split], (process, num_processes)
        if split == "train":
            pairs = pairs.chosen(sample(self.num_train, self._cfg.flatness.samples))
        labelled = {name: splits[split] for name, splits in self.zero_shot_inputs.items() if split in splits}
        named = _named({name: zero_shot_sums(model, inputs, *share) for name, inputs in labelled.items()})
        return pair_sums(model, pairs, *share, calibrates=split != "train") | named

    def _metrics(self, sums: dict[str, Any]) -> dict[str, float]:
        """For the pairs, loss and calibrated_loss (nats), logit_scale, recalls (percent) and their mean; for each
        labelled set ``<set>_top1`` and ``<set>_top5``, with their means over the sets zero_shot_top1 and
        zero_shot_top5; for each retrieval set ``<set>_i2t_recall1`` and so on.
        """
        by_set: dict[str, dict[str, Any]] = {}
        for key, value in sums.items():
            name, _, own = key.rpartition("/")
            by_set.setdefault(name, {})[own] = value
        metrics = pair_metrics(by_set.pop(""))
        zero_shot = {name: zero_shot_metrics(one) for name, one in by_set.items() if name in self.zero_shot_inputs}
        for rank in ("top1", "top5") if zero_shot else ():
            metrics[f"zero_shot_{rank}"] = sum(one[rank] for one in zero_shot.values()) / len(zero_shot)
        retrieval = {name: pair_metrics(one) for name, one in by_set.items() if name in self._retrieval}
        for name, one in (zero_shot | retrieval).items():
            metrics |= {f"{name}_{key}": value for key, value in one.items() if key not in ("loss", "logit_scale")}
        return metrics

    def _locked_part(self, name: str) -> LockedPart:
        cfg, tower = self._cfg.model, self._cfg.model.tower(name)
        opened = self._sets.weights.get(name)
        depends_on = [tower.locked, opened and opened.fingerprint]
        if name == "image":
            depends_on += [cfg.image_size, *cfg.pixel_mean, *cfg.pixel_std]
        identity = json.dumps(depends_on, sort_keys=True)
        build = partial(build_locked_tower, cfg, name, self._weights.get(name, {}))
        return locked_part(self._cfg, identity, build, self._sets.cache_dir, self.frozen_outputs)

    def _image_inputs(self, images: Images, fingerprint: str) -> Inputs:
        inputs: Inputs = Pixels(images, self._cfg.model.image_size)
        if not self._cached["image"]:
            return inputs
        return self._locked["image"].outputs(inputs, len(images), fingerprint)

    def _text_inputs(self, texts: list[str]) -> Inputs:
        cfg, weights = self._cfg.model, self._sets.weights.get("text")
        given = cfg.tokenizer, texts, cfg.context_length, weights, self._sets.cache_dir
        tokens, identity = stored_tokens("lit-tokens", *given)
        inputs: Inputs = Rows(tokens)
        return self._locked["text"].outputs(inputs, len(texts), identity) if self._cached["text"] else inputs

    def _pair_inputs(self, pairs: Pairs) -> PairInputs:
        images = self._image_inputs(pairs.images, pairs.fingerprint)
        return PairInputs(images, self._text_inputs(pairs.texts()), pairs.starts())

    def _drawn(self, seed: int) -> dict[str, PairInputs]:
        """Train and val with redrawn groups of pairs in val, reusing the locked towers' outputs."""
        if isinstance(self._sets.pairs, StoredSet) or self._cfg.data.crop_area is not None:
            raise ConfigError(
                f"data.split_seed={seed} is for pairs that are arrays and are not cropped: set it to null, or "
                "data.crop_area to null."
            )
        groups = split_groups(self._sets.pairs, self._sets.cache_dir)
        both = self.pair_inputs["train"].and_then(self.pair_inputs["val"])
        train, val = drawn_groups(groups["train"], groups["val"], seed)
        return {"train": both.chosen(train), "val": both.chosen(val)}

    def _zero_shot_inputs(self, name: str) -> dict[str, ZeroShotInputs]:
        val_size = self._cfg.data.zero_shot[name]["val_size"]
        names = class_names(name)
        texts = prompts(names, templates(self._cfg.data.templates))
        prompt_inputs = self._text_inputs(texts)
        return {
            split: ZeroShotInputs(
                self._image_inputs(labelled.images, labelled.fingerprint),
                prompt_numbers(labelled.labels, labelled.class_names, name),
                prompt_inputs,
                len(texts),
                len(names),
            )
            for split, labelled in zero_shot_splits(self._sets.zero_shot[name], val_size).items()
        }


def _named(by_set: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{name}/{key}": value for name, sums in by_set.items() for key, value in sums.items()}


def _check_size(pairs: Pairs, where: str) -> None:
    if len(pairs.captions) <= max(RANKS):
        raise DataError(
            f"{where} has only {len(pairs.captions)} images with captions, so each would be among the first "
            f"{max(RANKS)} results whatever the model: hold out more."
        )


def build(cfg: LitConfig, data: LitSets) -> Lit:
    """The task over its opened sets."""
    return Lit(cfg, data)
