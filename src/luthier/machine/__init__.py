"""Facts about this box: devices, memory, ranks, seeds."""
