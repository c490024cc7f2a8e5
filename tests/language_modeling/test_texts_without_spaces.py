"""Texts without spaces between words: runs report no word metrics. Metrics that are only displayed never stop a run."""

import math
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from experiments.harness.entry import execute
from experiments.harness.errors import ConfigError
from experiments.language_modeling import task
from experiments.metrics.perplexity import perplexity_metrics
from tests.conftest import MakeConfig, configs, executed, status_of
from tests.language_modeling.tables_on_disk import write_wiki40b

make_plain = configs("language_modeling")

ALPHABETS = {
    "zh-cn": "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生自会那后能对着事",
    "ja": "のにはをたがでてとしれさあるいなかこれもらんきくつおくりけそみよまえうせすわ日本年月大学人中国",
    "th": "กขคงจชซญดตถทนบปผพฟมยรลวศสหอะาิีึืุูเแโใไ่้๊็์",
}
SPACED = {
    "hi": "अआइईउऊएऐओऔकखगघचछजझटठडढणतथदधनपफबभमयरलवशषसहािीुूेैोौ्",
    "ko": "가각간갈감갑강개거건걸검겁게겨고곡공과관광구국군권귀그근글금기김나날남내너네노녹논누는니다",
    "en": "etaoinshrdlucmfwypvbgkjqxz",
    "ta": "அஆஇஈஉஊஎஏகஙசஞடணதநபமயரலவழளறனாிீுூெேைொோௌ்",
}
LETTERS_A_WORD = {"hi": 4, "ko": 3, "en": 5, "ta": 8}


def paragraph(language: str, rng: random.Random) -> str:
    if language in ALPHABETS:
        return "".join(rng.choices(ALPHABETS[language], k=rng.randint(60, 260)))
    length = LETTERS_A_WORD[language]
    words = ("".join(rng.choices(SPACED[language], k=rng.randint(length - 2, length + 2))) for _ in range(20))
    return " ".join(words)


def article(language: str, name: str) -> str:
    rng = random.Random(name)
    return "\n".join(paragraph(language, rng) for _ in range(rng.randint(3, 6)))


def write_articles(language: str, write: Callable[[str, list[str]], None]) -> None:
    for split, count in (("train", 12), ("validation", 3), ("test", 3)):
        write(split, [article(language, f"{split} {number}") for number in range(count)])


def write_wiki(folder: Path, split: str, texts: list[str]) -> None:
    """With Wiki-40B's markers."""
    marked = [f"\n_START_ARTICLE_\n{text[:4]}\n_START_PARAGRAPH_\n" + text.replace("\n", "_NEWLINE_") for text in texts]
    write_wiki40b(folder, split, marked)


def write_own(folder: Path, split: str, texts: list[str]) -> None:
    (folder / split).mkdir(parents=True)
    for number, text in enumerate(texts):
        (folder / split / f"{number}.txt").write_text(text)


@pytest.fixture
def make(smoke: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("LION_DATA", str(tmp_path / "data"))

    def config(language: str, *more: str, own: bool = False) -> Any:
        if own:
            write_articles(language, partial(write_own, tmp_path / "data/text"))
            data = ["data=lm_folder", "data.vocab_size=512"]
        else:
            write_articles(language, partial(write_wiki, tmp_path / "data/wiki40b" / language))
            data = ["data=lm_wiki40b", f"data.language={language}", "data.vocab_size=1024"]
        return make_plain(*smoke, f"run.cache_dir={tmp_path}/cache", "optimizer=adamw", *data, *more)

    return config


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("language", [*ALPHABETS, *SPACED])
def test_word_metrics_are_reported_only_for_languages_with_spaces(make: Any, language: str, own: bool) -> None:
    status = status_of(executed(make(language, own=own)))
    assert status["status"] == "complete"
    for split in ("val", "test"):
        by_words = {name for name in status["metrics"] if name.startswith(f"{split}/word_")}
        assert {f"{split}/log_perplexity", f"{split}/bits_per_byte"} <= status["metrics"].keys()
        assert by_words == (
            {f"{split}/word_log_perplexity", f"{split}/word_perplexity"} if language in SPACED else set()
        )


def test_a_study_with_word_metrics_is_refused_for_texts_without_spaces(make: Any) -> None:
    for key, split in (("primary", "test"), ("validation", "val")):
        with pytest.raises(ConfigError, match=rf"study\.{key}_metric={split}/word_log_perplexity counts words"):
            execute(make("zh-cn", f"study.{key}_metric={split}/word_log_perplexity", own=key == "primary"))


def test_an_overflowing_displayed_perplexity_does_not_end_the_run(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = make("en")
    monkeypatch.setattr(
        task, "perplexity_metrics", lambda sums: perplexity_metrics({**sums, "words": sums["nats"] / 800})
    )
    status = status_of(executed(cfg))
    assert status["status"] == "complete"
    assert "test/word_perplexity" not in status["metrics"]
    assert status["metrics"]["test/word_log_perplexity"] == pytest.approx(800)


@pytest.mark.parametrize("name", ["loss", "log_perplexity"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_non_finite_validation_loss_ends_the_run(
    make: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    cfg = make("en")
    monkeypatch.setattr(task, "perplexity_metrics", lambda sums: {**perplexity_metrics(sums), name: value})
    status = status_of(executed(cfg))
    assert (status["status"], status["reason"]) == ("diverged", f"val/{name} is not finite at step 3")


def test_overflowing_weights_count_as_divergence(make_config: MakeConfig) -> None:
    """The norm of a step, which is only displayed, becomes infinite one step before the loss."""
    cfg = make_config(
        "optimizer=sgd", "optimizer.lr=1e38", "schedule.warmup_steps=0", "train.clip_norm=null", "train.log_every=1",
    )  # fmt: skip
    assert status_of(executed(cfg))["status"] == "diverged"


def test_a_validation_metric_the_objective_lacks_is_refused(make_lm: MakeConfig) -> None:
    masked = make_lm("experiment=language_modeling/smoke_masked", "study.validation_metric=val/bits_per_byte")
    with pytest.raises(ConfigError, match=r"names val/bits_per_byte, which is not among the metrics .*: val/loss"):
        execute(masked)
