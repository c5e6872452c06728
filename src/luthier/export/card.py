"""The model card for the hub: the card of the training, and what was found out since.

    front matter   base_model and how this one is related to it, licence, data sets, library
    How near       agreement of the exported form with the run
    Results        pass@1 beside the base, with intervals, when there is a file of `luthier compare --json`
    Limits         what nobody has checked

Paths of the machine that trained it are cut to their last part; secrets are hidden.

Not covered: the card of the training itself (`luthier.training.card`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from luthier.config.schema import ModelSection
from luthier.errors import DataError, Problem
from luthier.errors.secrets import hide
from luthier.events.printable import one_line
from luthier.export.agree import Agreement
from luthier.generate.system import trained_system
from luthier.generate.weights import Base
from luthier.model.hashes import base_folder
from luthier.training.card import SETTINGS, USE, how_to_use

_PATH = re.compile(r"(?<![\w/:.~<-])(?:~|/[\w.@+-]+)(?:/[\w.@+-]+)+")
_LIMITS = """## Limits

- {tried}. Nothing was checked about facts, safety or other languages.
- It knows the prompts of its training: use the chat template that comes with it.
- What it was trained on, and the licences of the data, are its author's responsibility.
{licence}"""


@dataclass(frozen=True)
class Published:
    """What a card is about.

    Attributes:
        folder: The run's final_model.
        base: What the run says of its base.
        base_name: What the base is called on the hub; empty when nobody says.
        name: OWNER/NAME, or the folder's name.
        merged: Whether it is the merged model.
        agreements: With the run as it was trained.
        results: A file of `luthier compare --json`.
    """

    folder: Path
    base: Base
    base_name: str
    name: str
    merged: bool
    agreements: Sequence[Agreement] = ()
    results: Path | None = None

    @property
    def revision(self) -> str | None:
        """The base's commit on the hub, if the run pinned one; under another name it is nobody's."""
        return self.base.revision if self.base_name == self.base.name else None


def hub_card(about: Published) -> str:
    """README.md for the hub.

    Raises:
        DataError: E-EXPORT-012 when the results cannot be read.
    """
    written = about.folder / "README.md"
    trained = written.read_text(encoding="utf-8") if written.is_file() else f"# {about.name}\n\n{USE}\n{SETTINGS}"
    card = ModelCard(trained, ignore_metadata_errors=True)
    licence = base_licence(about.base)
    for key, value in _front(about, licence).items():
        setattr(card.data, key, value)
    before, _, rest = card.text.partition(USE)
    settings = rest[rest.find(SETTINGS) :] if SETTINGS in rest else ""
    base = about.base
    adapter = (
        ("", None, None, "auto") if about.merged else (about.base_name, about.revision, base.quantization, base.dtype)
    )
    use = how_to_use(about.name, *adapter, trained_system(about.folder))
    sections = [before.strip(), use, _near(about), _results(about.results), _limits(about, licence), settings.strip()]
    card.text = "\n" + "\n\n".join(section for section in sections if section) + "\n"
    text = str(card)
    if about.base_name and about.base.name:
        text = _renamed(text, about.base.name, about.base_name)
    return hide(_PATH.sub(lambda path: path[0].rpartition("/")[2], text))


def _renamed(text: str, old: str, new: str) -> str:
    """The base under its public name: where it stands in quotes, and in the settings; it may be a common word."""
    for quote in "\"'`":
        text = text.replace(f"{quote}{old}{quote}", f"{quote}{new}{quote}")
    return re.sub(rf"(?m)(model_name_or_path: ){re.escape(old)}$", lambda found: found[1] + new, text)


def base_licence(base: Base) -> str:
    """The licence that the base's own card names; empty when it is not here, cannot be read or names none."""
    if not base.name:
        return ""
    section = ModelSection(model_name_or_path=base.name, revision=base.revision)
    folder = base_folder(section)
    try:
        found = ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data.license if folder else None
    except Exception:  # it is YAML that anybody wrote, and each wrong thing fails in its own way
        return ""
    return one_line(str(found)) if found else ""


def _front(about: Published, licence: str) -> dict[str, Any]:
    front: dict[str, Any] = {"pipeline_tag": "text-generation"}
    front["library_name"] = "transformers" if about.merged else "peft"
    if about.base_name:
        front |= {"base_model": about.base_name, "base_model_relation": "finetune" if about.merged else "adapter"}
    return front | ({"license": licence} if licence else {})


def _near(about: Published) -> str:
    if not about.agreements:
        return ""
    lines = [
        f"- {one_line(a.name)}: mean KL {a.mean_kl:.1e} nats over {a.tokens:,} tokens of {a.prompts} answers, the same "
        f"likeliest token at {a.top1:.1%}, {a.same_text} of {a.prompts} greedy answers the same"
        for a in about.agreements
    ]
    return "## How near it is to the run as it was trained\n\n" + "\n".join(lines)


def _results(file: Path | None) -> str:
    """A table of every comparison in the file."""
    if file is None:
        return ""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        parts = [part for one in content["comparisons"] for part in _comparison(one, one["tasks"])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        found = f"cannot read {file}: {getattr(error, 'strerror', None) or type(error).__name__}"
        fix = "give the file that luthier compare RUN --json FILE wrote"
        raise DataError(Problem("E-EXPORT-012", found, fix, "--results")) from error
    return "\n".join(["## Results", *parts])


def _comparison(one: dict[str, Any], name: str) -> list[str]:
    head = f"pass@1 on `{one_line(name)}`, greedy, answers run against tests; 95 % intervals."
    rows = ["| tasks | number | base | tuned | change | p |", "|---|---|---|---|---|---|"]
    for change in one["changes"]:
        base, tuned = (_share(change[who]) for who in ("base", "tuned"))
        points = f"{100 * change['difference']:+.1f} ({100 * change['low']:+.0f} to {100 * change['high']:+.0f})"
        cells = (
            one_line(change["split"]).replace("|", "\\|") or "all",
            change["tuned"]["tasks"],
            base,
            tuned,
            points,
            f"{change['p']:.3g}",
        )
        rows.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return ["", head, "", *rows, "", one_line(one["verdict"])]


def _share(rate: dict[str, Any]) -> str:
    return f"{100 * rate['share']:.1f} % ({100 * rate['low']:.0f} to {100 * rate['high']:.0f})"


def _limits(about: Published, licence: str) -> str:
    known = f"- The base has the licence `{licence}`, which binds this model too."
    unknown = "- The licence of the base is not known here: look it up before you share this model."
    tried = "It was tried on the tasks above and on nothing else"
    if about.results is None:
        tried = "No results are given here: nobody says whether it is better than its base"
    return _LIMITS.format(tried=tried, licence=known if licence else unknown)
