"""Write a trained run's retrievals to sheet.html in its folder: queries and their five nearest results, right or wrong.

    python -m experiments.lit.retrieval_sheet run=runs/lit/lion-s0-0123456789 experiment=lit/mini

After ``run`` come overrides that select the run's model and data; runs at scale=mini need none.
"""

import base64
import html
import io
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from experiments.harness.load_run import draw, load_run
from experiments.lit.data import Pairs, pair_splits
from experiments.lit.evaluation import embedded
from experiments.lit.models import TwoTowers
from experiments.lit.task import Lit, build

QUERIES = 24
"""evenly spread over the test images, and over their first captions"""
NEAREST = 5
THUMBNAIL = 96
"""pixels"""
STYLE = (
    "body{font:14px sans-serif}td{padding:4px;vertical-align:top;max-width:140px}"
    "img{min-width:64px;image-rendering:pixelated}"
    ".right{background:#cfc}.right:after{content:' ✓'}.wrong{background:#fdd}"
)


def retrieval_sheet(task: Lit, model: TwoTowers, pairs: Pairs) -> str:
    """A self-contained HTML page."""
    inputs = task.pair_inputs["test"]
    device = model.logit_scale.device
    model.eval()
    with torch.no_grad():
        images = embedded(model.embed_images, inputs.images, len(pairs.captions), device)
        every = embedded(model.embed_texts, inputs.texts, len(pairs.texts()), device)
    owners = [number for number, texts in enumerate(pairs.captions) for _ in texts]
    first = pairs.starts()[:-1]
    queries = torch.linspace(0, len(pairs.captions) - 1, min(QUERIES, len(pairs.captions))).long().tolist()
    by_image, by_text = [], []
    for query in queries:
        texts = nearest(images[query] @ every.T)
        cells = [(html.escape(pairs.texts()[text]), owners[text] == query) for text in texts]
        by_image.append(row(image_tag(pairs, query), cells))
        found = nearest(every[first[query]] @ images.T)
        shown = [(image_tag(pairs, number), number == query) for number in found]
        by_text.append(row(html.escape(pairs.captions[query][0]), shown))
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>LiT: retrieval</title><style>{STYLE}</style>"
        f"<h2>Texts nearest to an image</h2><table>{''.join(by_image)}</table>"
        f"<h2>Images nearest to a text</h2><table>{''.join(by_text)}</table>"
    )


def nearest(similarities: Tensor) -> list[int]:
    """Indices of the NEAREST best keys, best first."""
    numbers: list[int] = similarities.topk(min(NEAREST, len(similarities))).indices.tolist()
    return numbers


def row(query: str, found: list[tuple[str, bool]]) -> str:
    """An HTML table row: the query, and the results, coloured by whether they are right."""
    cells = [f"<td class='{'right' if right else 'wrong'}'>{content}</td>" for content, right in found]
    return f"<tr><th>{query}</th>{''.join(cells)}</tr>"


def image_tag(pairs: Pairs, number: int) -> str:
    """An <img> with embedded pixels."""
    image: Image.Image = to_pil_image(pairs.images[number])
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"<img src='data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'>"


def write_sheet(directory: Path, cfg: Any) -> Path:
    """Write the sheet for the run in ``directory``, whose model and data must match the composed config ``cfg``."""
    run, task, model = load_run(directory, cfg, build, same=("model", "data"))
    assert isinstance(model, TwoTowers)
    path = directory / "sheet.html"
    path.write_text(retrieval_sheet(task, model, pair_splits(run.data.pairs)["test"]), encoding="utf-8")
    return path


if __name__ == "__main__":
    draw("lit", write_sheet, sys.argv[1:])
