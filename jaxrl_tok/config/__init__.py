"""Run, model and recipe files: what they may say, how they are read, what follows. Imports no jax."""
