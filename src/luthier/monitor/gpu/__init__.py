"""The GPU monitor: `watch` reads, `view` draws, `record` writes down. It reads the machine and never a run."""
