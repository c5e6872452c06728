"""One small file per shape of log: from its lines or records to events. `luthier.events.follow` opens them."""
