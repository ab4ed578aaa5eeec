"""The campaign: inputs that nobody meant, by seed. ``python -m tests.fuzz --minutes 30`` is the long run."""
