"""As much of Go's text/template as Luthier's templates for Ollama use, to see what Ollama would render."""

from __future__ import annotations

import json
import re


def render(template, system, messages):
    """What Ollama makes of a conversation: the system message is in `.System` and among the messages."""
    tokens, at = [], 0
    for found in re.finditer(r'\{\{ ((?:"(?:[^"\\]|\\.)*"|[^"])*?) \}\}', template, re.DOTALL):
        tokens += [("text", template[at : found.start()]), ("do", found[1])]
        at = found.end()
    tokens.append(("text", template[at:]))
    tree, rest = block(tokens)
    assert not rest
    return run(tree, {"System": system, "Messages": messages}, None, {})


def block(tokens):
    """Nodes up to an `else` or `end`, and what is left."""
    nodes = []
    while tokens:
        kind, text = tokens[0]
        if kind == "do" and (text == "end" or text.startswith("else")):
            break
        tokens = tokens[1:]
        if kind == "do" and text.startswith(("if ", "range ")):
            node, tokens = branch(text, tokens)
            nodes.append(node)
        else:
            nodes.append(("text" if kind == "text" else "value", text))
    return nodes, tokens


def branch(opening, tokens):
    """An `if` or `range` with its `else`, up to and with its `end`; `else if` shares the end."""
    word, _, condition = opening.partition(" ")
    body, tokens = block(tokens)
    (_, ending), tokens = tokens[0], tokens[1:]
    other = []
    if ending.startswith("else if"):
        node, tokens = branch(ending.removeprefix("else "), tokens)
        return (word, condition, body, [node]), tokens
    if ending == "else":
        other, tokens = block(tokens)
        (_, ending), tokens = tokens[0], tokens[1:]
    assert ending == "end"
    return (word, condition, body, other), tokens


def run(nodes, root, dot, names):
    out = ""
    for node in nodes:
        if node[0] == "text":
            out += node[1]
        elif node[0] == "value":
            assigned = re.fullmatch(r"\$(\w+) := (.*)", node[1])
            if assigned:
                names = {**names, assigned[1]: value(assigned[2], root, dot, names)}
            else:
                out += value(node[1], root, dot, names)
        elif node[0] == "if":
            out += run(node[2] if value(node[1], root, dot, names) else node[3], root, dot, names)
        else:
            assert node[1] == "$i, $_ := .Messages"
            for index, message in enumerate(root["Messages"]):
                out += run(node[2], root, message, {**names, "i": index})
    return out


def value(text, root, dot, names):
    if text == ".System":
        return root["System"]
    if text in (".Role", ".Content"):
        return dot[text[1:].lower()]
    if text.startswith('"'):
        return json.loads(text)
    if text == "eq (len (slice $.Messages $i)) 1":
        return len(root["Messages"][names["i"] :]) == 1
    if text.startswith("eq .Role "):
        return dot["role"] == json.loads(text.removeprefix("eq .Role "))
    if text.startswith("not $"):
        return not names[text.removeprefix("not $")]
    if text.startswith("$"):
        return names[text[1:]]
    raise AssertionError(f"not in this subset: {text}")
