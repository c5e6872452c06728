"""What was exported, on a screen: where it is, what it was compared with, and how near it came."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from luthier.errors.secrets import hide
from luthier.errors.terminal import width
from luthier.events.printable import one_line
from luthier.export.agree import LEAST_TOP1, MOST_KL, Agreement
from luthier.export.run import Exported

_NAME = 36


def table(agreements: Sequence[Agreement]) -> str:
    """A line for each form."""
    lines = [f"{'':{_NAME}} {'mean KL':>9} {'max KL':>9} {'same top-1':>11} {'same text':>10} {'tokens':>7}"]
    lines += [
        f"{one_line(a.name):{_NAME}} {a.mean_kl:9.1e} {a.max_kl:9.1e} {a.top1:>11.1%} "
        f"{f'{a.same_text}/{a.prompts}':>10} {a.tokens:7,}"
        for a in agreements
    ]
    return "\n".join(lines)


def shown(exported: Exported) -> str:
    """All that the user should know."""
    return hide("\n".join(_shown(exported)))


def _shown(exported: Exported) -> Iterator[str]:
    yield f"written   {one_line(str(exported.folder))}   ({exported.form}, {exported.bytes / 1e6:,.1f} MB)"
    if exported.onto:
        yield f"onto      {one_line(exported.onto)}"
    if exported.prompts:
        yield f"compared  on {one_line(exported.prompts)}"
    if exported.agreements:
        yield ""
        yield table([*exported.agreements, *exported.beside])
        yield ""
        yield f"passed    mean KL at most {MOST_KL} nats, the same top-1 at {LEAST_TOP1:.0%} of the tokens at least"
    for note in exported.notes:
        yield ""
        yield textwrap.fill(one_line(note), width())


def as_json(exported: Exported) -> dict[str, Any]:
    """Plain data."""
    return {
        "folder": str(exported.folder),
        "bytes": exported.bytes,
        "form": exported.form,
        "onto": exported.onto,
        "prompts": exported.prompts,
        "agreements": [one.as_dict() for one in exported.agreements],
        "beside": [one.as_dict() for one in exported.beside],
        "notes": list(exported.notes),
    }
