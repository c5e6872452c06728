"""The benchmark of exported forms as numbers; nothing is measured here.

python benchmarks/export.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luthier.export.agree import LEAST_TOP1, MOST_KL

RESULTS = Path("benchmarks/results/export.json")


def export() -> dict[str, Any]:
    content = json.loads(RESULTS.read_text(encoding="utf-8"))
    forms = content["forms"]
    into_files, trained = forms["merged_onto_files"]["mean_kl"], forms["merged_bfloat16"]["mean_kl"]
    return {
        "steps": content["steps"],
        "prompts": content["prompts"],
        "tokens": forms["merged_bfloat16"]["tokens"],
        "table": table(list(forms.values())),
        "times_farther": into_files / trained,
        "into_4_bits_farther": forms["merged_into_4_bits"]["mean_kl"] / trained,
        "texts": content["tokens"]["texts"],
        "same_texts": content["tokens"]["same"],
        "most_kl": MOST_KL,
        "least_top1": LEAST_TOP1,
    }


def table(forms: list[dict[str, Any]]) -> str:
    """A row for each form."""
    lines = ["| form | mean KL, nats | max KL | same top-1 | same text |", "|---|---|---|---|---|"]
    for form in forms:
        text = f"{form['same_text']} of {form['prompts']}"
        lines.append(f"| {form['name']} | {form['mean_kl']:.1e} | {form['max_kl']:.1e} | {form['top1']:.1%} | {text} |")
    return "\n".join(lines)
