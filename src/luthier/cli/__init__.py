"""One small file per command; wires rooms together and computes nothing."""
