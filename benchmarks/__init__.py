"""Speed of the ops beside their peers and the machine's limits: ``python -m benchmarks``."""
