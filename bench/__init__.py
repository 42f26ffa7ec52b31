"""Benchmarks. Each prints its figures beside a reference measured in the same run; see README.md."""
