"""One opening of a GGUF file in llama.cpp, in a process of its own (see `luthier.export.llama_cpp`).

    python -m luthier.export.llama_child ASKED.json SAID.json

llama.cpp's own server listens on this machine only, at a port that the system chooses, as long as the process lives.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

TOP = 64
"""Tokens whose probability is asked for at each place."""
_SECONDS = 3600


def main() -> None:
    """The child: answer the request in the first file, into the second."""
    import xllamacpp

    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    parameters = xllamacpp.CommonParams()
    parameters.model.path = request["model"]
    parameters.n_ctx = request["context"]
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = request["threads"]
    parameters.n_gpu_layers = 0
    parameters.verbosity = 1
    parameters.warmup = parameters.fit_params = parameters.ui = False
    server = xllamacpp.Server(parameters)
    answer = {
        "tokens": [_post(server, "/tokenize", _text(text))["tokens"] for text in request["texts"]],
        "top": [_places(server, pair["prompt"], pair["answer"]) for pair in request["prompts"]],
        "answers": [_greedy(server, pair["prompt"], request) for pair in request["prompts"]],
        "rendered": [_rendered(server, messages) for messages in request["conversations"]],
    }
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")


def _text(text: str) -> dict[str, Any]:
    return {"content": text, "add_special": True, "parse_special": True}


def _places(server: Any, prompt: list[int], answer: list[int]) -> list[list[list[float]]]:
    """The likeliest tokens after the prompt, after its next token, ..., after the whole answer.

    The server gives no probabilities with a token that ends the answer or is a part of a letter, so it is made to
    choose a plain one; the probabilities are those before any choice.
    """
    plain = _post(server, "/tokenize", {"content": "a", "add_special": False})["tokens"][-1]
    places = []
    for length in range(len(answer) + 1):
        said = _complete(server, prompt + answer[:length], 1, n_probs=TOP, logit_bias=[[plain, 10_000]])
        top = said["completion_probabilities"][0]["top_logprobs"]
        places.append([[token["id"], token["logprob"]] for token in top])
    return places


def _greedy(server: Any, prompt: list[int], request: dict[str, Any]) -> list[int]:
    tokens: list[int] = _complete(server, prompt, request["new_tokens"])["tokens"]
    ends = [index for index, token in enumerate(tokens) if token in request["stop_ids"]]
    return tokens[: ends[0]] if ends else tokens


def _rendered(server: Any, messages: list[dict[str, str]]) -> str | None:
    try:
        return str(_post(server, "/apply-template", {"messages": messages})["prompt"])
    except urllib.error.HTTPError:
        return None


def _complete(server: Any, prompt: list[int], new_tokens: int, **more: Any) -> dict[str, Any]:
    greedy = {"temperature": 0.0, "n_predict": new_tokens, "return_tokens": True}
    return _post(server, "/completion", {"prompt": prompt, "cache_prompt": True, **greedy, **more})


def _post(server: Any, path: str, content: dict[str, Any]) -> dict[str, Any]:
    """A request to the child's own server, past any proxy."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(server.listening_address + path, json.dumps(content).encode(), headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=_SECONDS) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


if __name__ == "__main__":
    main()
