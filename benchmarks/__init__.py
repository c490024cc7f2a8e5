"""Benchmarks, whose tables are kept under results/."""
