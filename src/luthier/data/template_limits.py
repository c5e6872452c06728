"""A foreign chat template is first tried in a process of its own, which may use little time and memory.

Jinja's sandbox keeps a template away from files and Python's insides, not from ``{{ 'a' * 10**10 }}`` or loops within
loops. A child renders a short conversation under limits of the kernel; only one that ends there is rendered here, and
none where the child does not come to it.

Not covered: templates that explode on some rows only, and Windows, which has no such limits and tries nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache

from luthier.events.printable import one_line

CPU_SECONDS = 3
MEMORY_MIB = 1024
MOST_CHARACTERS = 1_000_000

# The environment is that of `transformers.utils.chat_template_utils`, which would take a second to import.
_CHILD = """
import json, resource, sys
from datetime import datetime
sys.path[:], source, variables, seconds, most_bytes, most_characters = json.load(sys.stdin)
import jinja2, jinja2.ext, jinja2.sandbox

class Generation(jinja2.ext.Extension):
    tags = {"generation"}
    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)

def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)

environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
)
environment.filters["tojson"] = lambda x, **options: json.dumps(x, **{"ensure_ascii": False, **options})
environment.globals |= {"raise_exception": raise_exception, "strftime_now": lambda form: datetime.now().strftime(form)}
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
characters = 0
try:
    for piece in environment.from_string(source).generate(**variables):
        characters += len(piece)
        if characters > most_characters:
            break
except MemoryError:
    characters = -1
except Exception:
    pass  # what is wrong with it, its rendering in earnest will say
print(characters)
"""


@lru_cache(maxsize=256)
def exceeded(source: str, special_tokens: tuple[tuple[str, str], ...] = ()) -> str:
    """What a template takes too much of for a conversation of two short messages, or why that is not known.

    Empty when it is modest.

    Args:
        source: The Jinja text.
        special_tokens: Names and texts that it may use.
    """
    if sys.platform == "win32":
        return ""
    messages = [{"role": "user", "content": "How are you?"}, {"role": "assistant", "content": "Well."}]
    variables = {"messages": messages, "add_generation_prompt": True, **dict(special_tokens)}
    given = json.dumps([[*map(str, sys.path)], source, variables, CPU_SECONDS, MEMORY_MIB * 2**20, MOST_CHARACTERS])
    command = [sys.executable, "-I", "-c", _CHILD]
    try:
        child = subprocess.run(
            command, input=given, capture_output=True, text=True, errors="replace", timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        return "it does not end"
    except OSError as error:
        return f"it cannot be tried: no process of its own for it ({error.strerror or error})"
    if child.returncode < 0:
        return f"it computes for more than {CPU_SECONDS} seconds"
    said = child.stdout.strip()
    if said == "-1":
        return f"it needs more than {MEMORY_MIB:,} MiB of memory"
    if child.returncode or not said.isdigit():
        words = child.stderr.strip().splitlines() or ["it said nothing"]
        return f"it cannot be tried: the process of its own failed ({one_line(words[-1])[:200]})"
    if int(said) > MOST_CHARACTERS:
        return f"it writes more than {MOST_CHARACTERS:,} characters"
    return ""
