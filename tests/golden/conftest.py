"""The generated data of the five tasks' smoke runs."""

from tests.diffusion.conftest import clouds as clouds
from tests.finetuning.conftest import sentences as sentences
from tests.language_modeling.conftest import books as books
from tests.lit.conftest import shapes as shapes
