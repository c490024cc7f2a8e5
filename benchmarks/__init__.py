"""Benchmarks. Their tables are committed under results/."""
