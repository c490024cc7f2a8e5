"""Class names and prompt templates for zero-shot classification, by data set."""

import runpy
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.labels import check_labels
from experiments.data.text import folded
from experiments.harness.errors import DataError

SAME_NAMES = 0.9
"""If at least this share of a set's class names equals ours in the same positions, both are in the same order"""

PLAIN_TEMPLATES = ("a {}", "a picture of a {}", "a photo of a {}", "a drawing of a {}")

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

CIFAR100 = tuple(
    """apple, aquarium fish, baby, bear, beaver, bed, bee, beetle, bicycle, bottle, bowl, boy, bridge, bus, butterfly,
    camel, can, castle, caterpillar, cattle, chair, chimpanzee, clock, cloud, cockroach, couch, crab, crocodile, cup,
    dinosaur, dolphin, elephant, flatfish, forest, fox, girl, hamster, house, kangaroo, keyboard, lamp, lawn mower,
    leopard, lion, lizard, lobster, man, maple tree, motorcycle, mountain, mouse, mushroom, oak tree, orange, orchid,
    otter, palm tree, pear, pickup truck, pine tree, plain, plate, poppy, porcupine, possum, rabbit, raccoon, ray, road,
    rocket, rose, sea, seal, shark, shrew, skunk, skyscraper, snail, snake, spider, squirrel, streetcar, sunflower,
    sweet pepper, table, tank, telephone, television, tiger, tractor, train, trout, tulip, turtle, wardrobe, whale,
    willow tree, wolf, woman, worm""".replace("\n", " ").split(",")
)

PETS = tuple(
    """Abyssinian, American Bulldog, American Pit Bull Terrier, Basset Hound, Beagle, Bengal, Birman, Bombay, Boxer,
    British Shorthair, Chihuahua, Egyptian Mau, English Cocker Spaniel, English Setter, German Shorthaired,
    Great Pyrenees, Havanese, Japanese Chin, Keeshond, Leonberger, Maine Coon, Miniature Pinscher, Newfoundland,
    Persian, Pomeranian, Pug, Ragdoll, Russian Blue, Saint Bernard, Samoyed, Scottish Terrier, Shiba Inu, Siamese,
    Sphynx, Staffordshire Bull Terrier, Wheaten Terrier, Yorkshire Terrier""".replace("\n", " ").split(",")
)


def class_names(data_set: str) -> Sequence[str]:
    """Class names in the order of the class indices; ImageNet's are open_clip's."""
    if data_set == "imagenet":
        return tuple(_open_clip()["IMAGENET_CLASSNAMES"])
    names = {"cifar10": CIFAR10, "cifar100": CIFAR100, "pets": PETS}[data_set]
    return tuple(name.strip() for name in names)


def prompt_numbers(labels: np.ndarray, names: Sequence[str] | None, data_set: str) -> np.ndarray:
    """Convert labels int64 [rows], whose order is given by the set's ``names`` if it has any, to the order of
    class_names.

    Names are compared ignoring case, hyphens and underscores; ImageNet's may be WordNet's ids or its full titles.
    Raises DataError for an invalid class index, and for names that do not match the classes of the prompts.
    """
    ours = class_names(data_set)
    if names is None:
        check_labels(labels, len(ours), f"data.zero_shot.{data_set}")
        return labels
    theirs = [_plain(name) for name in names]
    for known in (ours, *_other_names(data_set)):
        number_of = {_plain(name): number for number, name in enumerate(known)}
        # The same order, if a few names are worded differently but none of these is another class's name:
        same = [name == _plain(own) for name, own in zip(theirs, known, strict=False)]
        strange = [name not in number_of for name, equal in zip(theirs, same, strict=False) if not equal]
        if len(theirs) == len(known) and sum(same) >= SAME_NAMES * len(known) and all(strange):
            return labels
        if len(number_of) == len(known) and all(theirs[number] in number_of for number in np.unique(labels)):
            table = np.array([number_of.get(name, -1) for name in theirs], np.int64)
            return table[labels]
    plain = {_plain(name) for name in ours}
    wrong = next((names[number] for number in np.unique(labels) if theirs[number] not in plain), names[0])
    raise DataError(
        f"data.zero_shot.{data_set} has the class {wrong!r}, which is not among the {len(ours)} classes of its "
        f"prompts, such as {ours[0]!r}: give its classes these names, or their numbers from 0 in the order of "
        "experiments/lit/class_names.py."
    )


def _plain(name: str) -> str:
    return " ".join(folded(name).replace("_", " ").replace("-", " ").split())


def _other_names(data_set: str) -> list[list[str]]:
    if data_set != "imagenet":
        return []
    from timm.data import ImageNetInfo

    known = ImageNetInfo()
    return [known.label_names(), [known.index_to_description(number) for number in range(1000)]]


def templates(kind: str) -> Sequence[str]:
    """``plain``: four templates; ``imagenet``: the 80 of Radford et al. 2021."""
    if kind == "plain":
        return PLAIN_TEMPLATES
    return tuple(template("{}") for template in _open_clip()["OPENAI_IMAGENET_TEMPLATES"])


def _open_clip() -> dict[str, Any]:
    """open_clip.zero_shot_metadata, without the package around it, whose import takes over a second."""
    package = find_spec("open_clip")
    assert package, "pyproject.toml asks for it"
    assert package.origin, "it has an __init__.py"
    return runpy.run_path(str(Path(package.origin).with_name("zero_shot_metadata.py")))
