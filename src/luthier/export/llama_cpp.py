"""What real llama.cpp makes of a GGUF file: opened in a process of its own, asked, and compared token by token.

    texts      -> token ids; equal to those of the tokenizer?
    prompts    -> at each token of the answers of the run the likeliest tokens, with log-probabilities
               -> its own greedy answers
    a question -> the prompt that it renders from the file's chat template

The whole vocabulary does not come out, so KL is taken over the tokens that do, and one bin for all others together.
That is at most the KL over all tokens, and close to it as the bin is small.

llama.cpp ends the process when something in a file surprises it; so it lives in a child, and its last words are the
error. The wheel `xllamacpp` is llama.cpp itself. Without it nothing is tried, and that is said.

Not covered: GPUs.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from luthier.errors import Problem, RunError
from luthier.export.agree import Agreement, Reference, summed_up

LIBRARY = "xllamacpp"
CHILD = ("-m", "luthier.export.llama_child")
SECONDS = 4 * 3600
"""For loading the file and all answers; without it a file on which loading hangs would hold the export for ever."""
_FIX = "see what is wrong: luthier explain E-EXPORT-007"


def installed() -> str:
    """The version of llama.cpp's wheel; empty without it."""
    return importlib.metadata.version(LIBRARY) if find_spec(LIBRARY) else ""


@dataclass(frozen=True)
class Heard:
    """What llama.cpp said.

    Attributes:
        tokens: Ids of each text.
        top: For each prompt, for each place of its answer: (id, log-probability) of the likeliest tokens.
        answers: Greedy ids for each prompt, without the end.
        rendered: Prompt for each conversation; None where it refused.
    """

    tokens: list[list[int]]
    top: list[list[list[tuple[int, float]]]]
    answers: list[list[int]]
    rendered: list[str | None]


def listen(
    file: Path, known: Reference, texts: Sequence[str] = (), conversations: Sequence[list[dict[str, str]]] = ()
) -> Heard:
    """Open a GGUF file in llama.cpp and ask it everything.

    Args:
        file: The GGUF file.
        known: Prompts and answers of the run.
        texts: To be cut into tokens, special ones included, with BOS where the file says so.
        conversations: To be rendered.

    Raises:
        RunError: E-EXPORT-007.
    """
    pairs = list(zip(known.prompts, known.answers, strict=True))
    longest = max((len(prompt) + len(answer) for prompt, answer in pairs), default=0)
    request = {
        "model": str(file.absolute()),
        "context": max(512, longest + 8),
        "threads": torch.get_num_threads(),
        "texts": list(texts),
        "prompts": [{"prompt": prompt, "answer": answer} for prompt, answer in pairs],
        "new_tokens": max((len(answer) for _, answer in pairs), default=1) or 1,
        "stop_ids": list(known.stop_ids),
        "conversations": list(conversations),
    }
    with TemporaryDirectory(prefix="luthier-llama-") as folder:
        asked, said = Path(folder, "asked.json"), Path(folder, "said.json")
        asked.write_text(json.dumps(request), encoding="utf-8")
        try:
            done = subprocess.run(
                [sys.executable, *CHILD, str(asked), str(said)],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            found = f"llama.cpp did not answer within {SECONDS:,} seconds"
            raise RunError(Problem("E-EXPORT-007", found, _FIX)) from error
        if done.returncode or not said.is_file():
            lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            found = f"llama.cpp ended with {done.returncode}: {(lines or ['it said nothing'])[-1][:300]}"
            raise RunError(Problem("E-EXPORT-007", found, _FIX))
        answer = json.loads(said.read_text(encoding="utf-8"))
    top = [[[(int(i), float(p)) for i, p in place] for place in places] for places in answer["top"]]
    return Heard(answer["tokens"], top, answer["answers"], answer["rendered"])


def agreement_with(name: str, known: Reference, heard: Heard) -> Agreement:
    """Compare what llama.cpp said with the reference."""
    kl, top1 = [], []
    for log_p_AV, places in zip(known.log_p_AV, heard.top, strict=True):
        kl.append(torch.stack([_binned_kl(p_V, place) for p_V, place in zip(log_p_AV, places, strict=True)]))
        top1.append(
            torch.tensor([int(p_V.argmax()) == place[0][0] for p_V, place in zip(log_p_AV, places, strict=True)])
        )
    return summed_up(name, kl, top1, [a == b for a, b in zip(known.answers, heard.answers, strict=True)])


def _binned_kl(log_p_V: torch.Tensor, place: list[tuple[int, float]]) -> torch.Tensor:
    """KL over the tokens that llama.cpp named, and the rest as one."""
    ids = torch.tensor([token for token, _ in place])
    log_q = torch.tensor([value for _, value in place], dtype=torch.float64)
    p = log_p_V.double()[ids].exp()
    tiny = torch.finfo(torch.float64).tiny
    rest_p, rest_q = ((1 - part.sum()).clamp_min(0) for part in (p, log_q.exp()))
    inside = (p * (p.clamp_min(tiny).log() - log_q)).sum()
    # llama.cpp rounds to float32, so the two rests are known to about 1e-6 and only matter above that.
    outside = rest_p * ((rest_p.clamp_min(1e-6) / rest_q.clamp_min(1e-6)).log())
    return inside + outside
