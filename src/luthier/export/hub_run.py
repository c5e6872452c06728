"""A folder that can be pushed to the hub: the adapter as it is, or the merged model, with a card.

An adapter is copied byte for byte; only the name of its base becomes the one that others can fetch. Uploading is
huggingface_hub's, into a private repository: a new one, or one that is. Publishing is its owner's, by hand.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.config.outputs import MANIFEST, TRAINED_ON
from luthier.errors import MissingError, ModelError, Problem
from luthier.events.printable import one_line
from luthier.export.card import Published, hub_card
from luthier.export.place import Say, destination, filled, size
from luthier.export.run import Exported, Options, merge_run, name_of
from luthier.generate.load import final_folder
from luthier.generate.weights import Base, check_written, read_json
from luthier.model.vet import check_code

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def export_hub(
    run: str | Path,
    to: Path | None,
    options: Options,
    say: Say,
    *,
    merge: bool = False,
    base_name: str | None = None,
    results: Path | None = None,
    push: str | None = None,
) -> Exported:
    """Write the folder, and upload it when asked to.

    Args:
        run: Output folder of the run, or its final_model folder.
        to: Where to; None: `hub` in the run's output folder.
        options: Those of every form.
        say: Told what is being done.
        merge: The merged model instead of the adapter.
        base_name: What the base is called on the hub.
        results: A file of `luthier compare --json`, for the card.
        push: OWNER/NAME.

    Raises:
        ModelError: E-EXPORT-006, and others of the run.
        MissingError: E-EXPORT-001, E-EXPORT-008.
    """
    folder = final_folder(run)
    base = Base.of(folder)
    known_as = base_name or (base.name if _on_the_hub(base.name) else "")
    whole = merge or not (folder / "adapter_config.json").is_file()
    for name, option in ((push, "--push"), (base_name, "--base-name")):
        if name and not _NAME.fullmatch(name):
            problem = Problem("E-EXPORT-008", f"{name} is no name on the hub", "write OWNER/NAME", option)
            raise MissingError(problem)
    if not whole and not known_as:
        found = f"its base is {base.name or 'not named'}, which is no name on the hub"
        raise ModelError(Problem("E-EXPORT-006", found, "--base-name OWNER/NAME, or --merged", str(folder)))
    about = Published(folder, base, known_as, push or name_of(run), whole, (), results)
    hub_card(about)  # what is wrong with the results is said before the work begins
    done = _merged(run, to, options, say, about) if whole else _adapter(folder, to, options, about)
    if push:
        _push(done.folder, push, say)
        return replace(done, notes=(*done.notes, f"Pushed to {push}, a private repository."))
    return replace(done, notes=(*done.notes, f"To publish it: {_by_hand('OWNER/NAME', done.folder)}"))


def _on_the_hub(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and not Path(name).exists()


def _merged(run: str | Path, to: Path | None, options: Options, say: Say, about: Published) -> Exported:
    def with_card(folder: Path, exported: Exported) -> None:
        told = replace(about, agreements=(*exported.agreements, *exported.beside))
        (folder / "README.md").write_text(hub_card(told), encoding="utf-8")
        _rename_base(folder / TRAINED_ON, "base", about)

    return merge_run(run, to, None, options, say, name="hub", more=with_card)


def _adapter(folder: Path, to: Path | None, options: Options, about: Published) -> Exported:
    check_code(str(folder))
    check_written(folder)
    place = destination(folder, to, "hub", overwrite=options.overwrite)

    with filled(place) as aside:
        for file in folder.iterdir():
            if file.is_file() and file.name != MANIFEST:
                shutil.copyfile(file, aside / file.name)
        _rename_base(aside / "adapter_config.json", "base_model_name_or_path", about)
        _rename_base(aside / TRAINED_ON, "base", about)
        (aside / "README.md").write_text(hub_card(about), encoding="utf-8")
    return Exported(place, size(place), "the adapter, byte for byte, and a card", "", "", ())


def _rename_base(file: Path, key: str, about: Published) -> None:
    """Where the base was on the machine of the training is of no use to others."""
    if file.is_file():
        content: dict[str, Any] = {**read_json(file), key: about.base_name or None, "revision": about.revision}
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _push(folder: Path, name: str, say: Say) -> None:
    """Upload all but the manifest, unless everybody could read it.

    Raises:
        MissingError: E-EXPORT-008.
    """
    from huggingface_hub import HfApi

    say(f"uploading to {name}")
    try:
        api = HfApi()
        api.create_repo(name, private=True, exist_ok=True)  # one that exists stays as it is
        private = api.model_info(name).private
        if private:
            api.upload_folder(
                repo_id=name, folder_path=folder, ignore_patterns=[MANIFEST], commit_message="Uploaded by Luthier"
            )
    except Exception as error:  # of the hub's library, of the network, of a login
        found = f"{name}: {one_line(str(error))[:200] or type(error).__name__}"
        fix = f"hf auth login, then: {_by_hand(name, folder)}"
        raise MissingError(Problem("E-EXPORT-008", found, fix, "--push")) from error
    if not private:
        fix = f"make it private in its settings on the hub, or publish it by hand: {_by_hand(name, folder)}"
        raise MissingError(Problem("E-EXPORT-008", f"{name} is a public repository; nothing was sent", fix, "--push"))


def _by_hand(name: str, folder: Path) -> str:
    """The command that uploads what `_push` does."""
    return f"hf upload {name} {folder} --exclude {MANIFEST}"
