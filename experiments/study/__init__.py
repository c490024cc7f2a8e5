"""Everything above single runs: which runs come next, pairing, statistics, verdicts."""
