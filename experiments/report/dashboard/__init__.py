"""The dashboard: a folder of pages that opens from disk, showing finished studies and the runs of unfinished ones."""
