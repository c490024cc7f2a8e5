"""What a run needs, whatever its task."""
