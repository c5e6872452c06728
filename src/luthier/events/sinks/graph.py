"""The architecture of the model for TensorBoard: a graph to fold open, and a table to read.

The graph has one node per innermost module; dots in names become scopes, so that TensorBoard folds the layers. Edges
follow the order of the modules, which is the order in which a decoder applies them; branches (attention's q, k, v) are
drawn one after the other. "Color by: device" tells trained modules from frozen ones.
"""

from __future__ import annotations

import re
from typing import Any

from tensorboard.compat.proto import attr_value_pb2, graph_pb2, node_def_pb2, versions_pb2

from luthier.events.printable import one_line
from luthier.events.types import Architecture

_CONTAINERS = ("ModuleDict", "ModuleList", "ParameterDict", "ParameterList")


def graph_def(modules: list[dict[str, Any]]) -> graph_pb2.GraphDef:
    """The graph of `Architecture.modules`."""
    names = {str(module["name"]) for module in modules}
    outer = {name[:dot] for name in names for dot in (match.start() for match in re.finditer(r"\.", name))} | {""}
    nodes = [node_def_pb2.NodeDef(name="tokens", op="Input")]
    for module in modules:
        name = str(module["name"])
        if name in outer or name == module["type"] or module["type"] in _CONTAINERS:
            continue  # holds others, or nothing; the model itself has its class for a name
        trainable = int(module.get("trainable", 0))
        nodes.append(
            node_def_pb2.NodeDef(
                name=one_line(name).replace(".", "/"),
                op=one_line(str(module["type"])),
                input=[nodes[-1].name],
                device="/device:trained" if trainable else "/device:frozen",
                attr={
                    "shape": attr_value_pb2.AttrValue(s=str(module.get("shape", "")).encode("utf-8", "replace")),
                    "parameters": attr_value_pb2.AttrValue(i=int(module.get("parameters", 0))),
                    "trainable": attr_value_pb2.AttrValue(i=trainable),
                },
            )
        )
    return graph_pb2.GraphDef(node=nodes, versions=versions_pb2.VersionDef(producer=22))


def architecture_table(event: Architecture) -> str:
    """A Markdown table; layers that are alike but for their number share a row."""
    rows: dict[tuple[str, ...], int] = {}
    for module in event.modules:
        name = re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", str(module["name"]), count=1)
        parameters, trainable = int(module.get("parameters", 0)), int(module.get("trainable", 0))
        row = (name, str(module["type"]), str(module.get("shape", "")), f"{parameters:,}", f"{trainable:,}")
        rows[row] = rows.get(row, 0) + 1
    return "\n".join(
        (
            f"{event.parameters:,} parameters, {event.trainable_parameters:,} of them trained. In the graph an edge "
            "leads to the module that is defined next: q, k and v, which read the same numbers, stand in a row.",
            "",
            "| module | times | type | shape | parameters each | trained each |",
            "|---|---|---|---|---|---|",
            *(
                f"| `{cell(name)}` | {times} | {cell(kind)} | {cell(shape)} | {parameters} | {trainable} |"
                for (name, kind, shape, parameters, trainable), times in rows.items()
            ),
        )
    )


def cell(value: object) -> str:
    """Text of one cell of a Markdown table."""
    return one_line(str(value)).replace("|", "\\|")
