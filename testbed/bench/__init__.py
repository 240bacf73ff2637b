"""Benchmarks: what docs/benchmarks.md quotes. Figures, never assertions."""
