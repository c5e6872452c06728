"""`luthier export`: a finished run for llama.cpp, Ollama, plain transformers or the hub, with proof."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path

import typer

from luthier.cli.json_file import JsonFile, write_json
from luthier.cli.libraries import import_libraries
from luthier.cli.merge import Onto, OntoIs, Overwrite, Prompts, say
from luthier.cli.request import Base
from luthier.cli.usual_run import Run, usual_run


class Form(StrEnum):
    """What a run can become."""

    gguf = "gguf"
    ollama = "ollama"
    safetensors = "safetensors"
    hub = "hub"


class Quant(StrEnum):
    """Number formats of a GGUF file."""

    f16 = "f16"
    bf16 = "bf16"
    q8_0 = "q8_0"


class Allow(StrEnum):
    """What may differ."""

    tokenizer = "tokenizer"


def export(
    run: str = Run,
    form: Form = typer.Option(..., "--to", help="What it shall become."),
    out: Path = typer.Option(None, "--out", metavar="FOLDER", help="Where to; else a folder of RUN."),
    quant: Quant = typer.Option(Quant.f16, "--quant", help="GGUF: number format of the matrices."),
    allow: list[Allow] = typer.Option([], "--allow", help="GGUF: `tokenizer`: llama.cpp may cut texts otherwise."),
    onto: Onto = OntoIs,
    base: str = Base,
    prompts: Path = Prompts,
    overwrite: bool = Overwrite,
    merge: bool = typer.Option(False, "--merged", help="hub: the merged model, not the adapter."),
    base_name: str = typer.Option(
        None, "--base-name", metavar="OWNER/NAME", help="hub: what the base is called there."
    ),
    results: Path = typer.Option(
        None, "--results", metavar="FILE", help="hub: of `luthier compare --json`, for the card."
    ),
    push: str = typer.Option(None, "--push", metavar="OWNER/NAME", help="hub: upload it, as a private repository."),
    as_json: Path = JsonFile,
) -> None:
    """Write RUN in the format of other programs, and compare it with the run before it counts.

    Exit code 3, and nothing written, when it does not answer as the run does.

    Example: luthier export checkpoints --to gguf --quant q8_0
    """
    _refuse(form, (Form.hub,), {"--merged": merge, "--base-name": base_name, "--results": results, "--push": push})
    _refuse(form, (Form.gguf, Form.ollama), {"--quant": quant is not Quant.f16, "--allow": allow})
    run = run or usual_run(f"export --to {form.value}")
    import_libraries()
    from luthier.export import screen
    from luthier.export.gguf_run import export_gguf
    from luthier.export.hub_run import export_hub
    from luthier.export.ollama import export_ollama
    from luthier.export.run import Options, merge_run
    from luthier.machine.libraries import library_output_to

    options = Options(base, onto.value, prompts, overwrite)
    with library_output_to(Path(os.devnull)):
        if form in (Form.gguf, Form.ollama):
            make = export_gguf if form is Form.gguf else export_ollama
            done = make(run, out, quant.value, options, say, allow_tokenizer=Allow.tokenizer in allow)
        elif form is Form.safetensors:
            done = merge_run(run, out, None, options, say)
        else:
            done = export_hub(run, out, options, say, merge=merge, base_name=base_name, results=results, push=push)
    typer.echo(screen.shown(done))
    if as_json:
        write_json(as_json, screen.as_json(done))


def _refuse(form: Form, forms: tuple[Form, ...], options: dict[str, object]) -> None:
    """Options that this form has no use for: who writes `--push` believes that it will be published."""
    for name, given in options.items():
        if given and form not in forms:
            raise typer.BadParameter(f"is for --to {' and --to '.join(forms)}", param_hint=name)
