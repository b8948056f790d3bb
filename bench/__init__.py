"""Benchmarks of the gateway against the alternatives. See README.md; ``python -m bench --help``."""
