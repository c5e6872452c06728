"""How an instruction is said: openings that all families share, times the ways each family says its task.

`$f` is the function's name, `$sig` its name with arguments, `$does` the task after "that" ("returns the sum"), `$do`
the task after "to" ("return the sum"), `$Do` the same at the start of a sentence.

Not covered: the tasks' own words; they stand in the families.
"""

from __future__ import annotations

import re
from string import Template

NAMED = (
    "Write a function called $f that $does.",
    "Create a Python function named $f that $does.",
    "Implement $f, a function that $does.",
    "I need a function $f which $does.",
    "Please code a function called $f that $does.",
    "How would you write a function $f that $does?",
    "Make a function $f to $do.",
    "$f: $do",
    "Can you write $f? It should $do.",
    "Give me a Python function $f that $does.",
    "Write $f, which $does.",
    "Code a function $f to $do.",
    "Let $f be a function that $does.",
    "We need a function $f to $do.",
    "Define $f: it should $do.",
    "Build a function called $f that $does.",
    "Add a function named $f which $does.",
    "Show me $f, a Python function that $does.",
)
SIGNED = (
    "Define $sig to $do.",
    "Write $sig so that it $does.",
    "Implement $sig. It should $do.",
    "Complete the function $sig, which $does.",
    "Write the Python function $sig to $do.",
    "Create $sig that $does.",
    "Write a function $sig that $does.",
    "Fill in $sig: it should $do.",
    "Add $sig, which should $do.",
    "Please write $sig to $do.",
    "Build $sig so that it $does.",
    "Show me $sig, a function that $does.",
)
UNNAMED = (
    "Write a Python function that $does.",
    "$Do.",
    "How do I $do in Python?",
    "Function that $does",
    "I want to $do. Write the function.",
    "Python function to $do",
    "Please write code to $do.",
)
HELD_NAMED = (
    "Can you code $f, a function which $does?",
    "Please define a function named $f to $do.",
    "I want a Python function called $f that $does.",
    "The function $f should $do. Write it in Python.",
    "Python code for $f: $do",
)
HELD_SIGNED = (
    "I need $sig to $do.",
    "Please implement $sig so that it $does.",
    "Give me $sig, which $does.",
)

_VERB = re.compile(r"\[(\w+)\]")


def _third(verb: str) -> str:
    if verb == "be":
        return "is"
    if re.search(r"(s|sh|ch|x|z|o)$", verb):
        return verb + "es"
    return verb[:-1] + "ies" if re.search(r"[^aeiou]y$", verb) else verb + "s"


def say(opening: str, core: str, name: str, signature: str, words: dict[str, str]) -> str:
    """One instruction.

    Args:
        opening: One of the openings above.
        core: A family's way to say the task.
        name: The function's name as it shall appear.
        signature: Name and arguments as they shall appear.
        words: What stands for each argument and slot.
    """
    told = Template(core).substitute(words)
    told = Template(told).substitute(words) if "$" in told else told
    do = _VERB.sub(r"\1", told)
    does = _VERB.sub(lambda m: _third(m[1]), told)
    parts = {"f": name, "sig": signature, "do": do, "does": does, "Do": do[:1].upper() + do[1:]}
    return Template(opening).substitute(parts)
