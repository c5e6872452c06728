"""Luthier beside its peers on this machine: the same rows, steps, adapter and losses, timed in turns."""
