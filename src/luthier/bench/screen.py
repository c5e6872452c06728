"""A comparison as a table, and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from luthier.bench.compare import Comparison, Row


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Plain data: the setting and one entry a row."""
    return {"setting": comparison.setting, "rows": [asdict(row) for row in comparison.rows]}


def table(comparison: Comparison) -> str:
    """The rows with their spread, how much slower each is than the first, and the verdict on the losses."""
    first, setting = comparison.rows[0], comparison.setting
    head = f"{'':24} {'tokens/s':>9} {'spread':>13} {'x':>6} {'of limit':>8} {'wall s':>7} {'GiB':>6}  loss"
    box = setting["surroundings"]
    lines = [
        f"{box['device']}, {box['threads']} threads, {setting['dtype']}; matrix products "
        f"at {setting['limit_flops'] / 1e9:,.0f} billion operations a second",
        f"{setting['steps']} steps of {setting['tokens_per_step']:,.0f} tokens "
        f"({setting['trained_tokens_per_step']:,.0f} trained), {setting['repeats']} runs each, in turns",
        "",
        head,
        *(_line(row, first) for row in comparison.rows),
        "",
    ]
    worst = max(row.largest_loss_difference for row in comparison.rows)
    verdict = "the same losses" if comparison.equal else "NOT the same losses: the rates say nothing"
    lines.append(
        f"{verdict}: at no step more than {worst:.1g} from {setting['losses_compared_with']} "
        f"(allowed: {comparison.tolerance:g})"
    )
    return "\n".join(lines)


def _line(row: Row, first: Row) -> str:
    spread = f"{min(row.all_tokens_per_second):,.0f} - {max(row.all_tokens_per_second):,.0f}"
    slower = "" if row is first else f"{first.tokens_per_second / row.tokens_per_second:.2f}"
    return (
        f"{f'{row.system} ({row.lane})':24} {row.tokens_per_second:9,.0f} {spread:>13} {slower:>6} "
        f"{row.share_of_limit:8.0%} {row.wall_seconds:7.1f} {row.peak_memory_gib:6.2f}  "
        f"{row.losses[0]:.3f} -> {row.losses[-1]:.3f}"
    )
