"""The dashboard: a folder of pages that opens from disk, with finished studies and the runs of those under way."""
