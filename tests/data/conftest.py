"""Keep the tests' tables out of the cache of the ``datasets`` library."""

from tests.image_classification.conftest import no_library_cache as no_library_cache
