"""Everything a run needs that does not depend on its task."""
