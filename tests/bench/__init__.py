"""Benchmarks: ratios within one run on real parts, printed; never a timed test."""
