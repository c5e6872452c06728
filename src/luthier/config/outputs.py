"""Names of what a run writes into its output folder, for all who write it or look for it.

Not covered: checkpoints (`luthier.training.checkpoint`), and what only those write who also read it.
"""

from __future__ import annotations

EVENTS = "events.jsonl"
"""Every event, one JSON object a line; see `luthier.events.record`."""
RECORD = "plan.yaml"
"""The plan, and what the run is made from; see `luthier.config.record`."""
FINAL = "final_model"
"""The folder of what was trained; see `luthier.training.final`."""
TRAINED_ON = "luthier.json"
"""In that folder: which base it was, and in which number format."""
MANIFEST = "manifest.json"
"""In that folder, in checkpoints and in exports: the SHA-256 of each file; see `luthier.training.commit`."""
