"""Faults that the tests must notice: mutants.py lists them, run.py plants them."""
