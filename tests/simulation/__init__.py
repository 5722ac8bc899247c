"""The whole gateway in one seeded, deterministic world: see ``run.py``."""
