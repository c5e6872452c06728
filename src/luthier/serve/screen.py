"""What `luthier serve` shows: who answers, where, and how to ask.

Not covered: a line for each request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from luthier.events.printable import one_line, short_name
from luthier.generate.system import in_words
from luthier.machine.listening import is_local, url_of
from luthier.serve.models import Served


def greet(console: Console, models: Mapping[str, Served], address: tuple[Any, ...], key: str) -> None:
    """Print it.

    Args:
        console: Where.
        models: By name.
        address: Host and port that are listened on.
        key: How a shell writes the key that clients need; empty: they need none.
    """
    host, url = str(address[0]), f"{url_of(*address[:2])}/v1"
    console.print(Text.assemble(("Luthier", "bold cyan"), "  serves ", (url, "bold")))
    table = Table.grid(padding=(0, 2))
    for name, model in models.items():
        base = short_name(model.tuned.base.name)
        what = f"the base, {model.tuned.base.numbers}" if model.is_base else f"on {base}" if base else "its own weights"
        what = ", ".join(filter(None, (what, in_words(model.tuned.system))))
        table.add_row("", Text(one_line(name), "bold"), Text(what, "dim"))
    console.print(table)
    first = one_line(next(iter(models)))
    body = json.dumps({"model": first, "messages": [{"role": "user", "content": "Reverse a string"}]})
    header = f' -H "Authorization: Bearer {key}"' if key else ""
    asked = f"curl {url}/chat/completions{header} -H 'Content-Type: application/json' -d '{body}'"
    console.print(Text(asked, "dim"), soft_wrap=True)
    if not is_local(host) and not key:
        warning = "Everybody who reaches this machine can ask: there is no API key (LUTHIER_API_KEY)."
        console.print(Text(warning, "yellow"))
    console.print(Text("Ctrl-C ends.", "dim"))
