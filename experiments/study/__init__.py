"""What stands above runs: which runs come next, pairing, statistics, verdict."""
