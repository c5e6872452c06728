"""Codes of the family E-SERVE: runs behind HTTP."""

from luthier.errors.codes.base import Explanation

SERVE: dict[str, Explanation] = {
    "E-SERVE-001": Explanation(
        title="the libraries of the server are not installed",
        why="luthier serve speaks HTTP through FastAPI and uvicorn, which nothing else needs",
        text=(
            "The server is an extra, so that a machine that only trains need not have it. Install it with the command "
            "shown. luthier chat and luthier generate ask a run without it."
        ),
    ),
    "E-SERVE-002": Explanation(
        title="the address cannot be listened on",
        why="nobody could reach the server",
        text=(
            "The port is taken by another program (often by an earlier server that still runs), it is below 1024 and "
            "needs rights that you do not have, or the host is no address of this machine. Give another --port, or "
            "--host 127.0.0.1 for this machine alone, --host 0.0.0.0 for all of its addresses."
        ),
    ),
    "E-SERVE-003": Explanation(
        title="two models have one name",
        why="a request names the model that is to answer, and must mean one of them",
        text=(
            "A run is called like its folder, and two of the folders have the same name. Write NAME=FOLDER for one of "
            "them: luthier serve checkpoints other=elsewhere/checkpoints."
        ),
    ),
    "E-SERVE-004": Explanation(
        title="vLLM cannot serve these runs so",
        why="a vLLM server holds one base model, and plain LoRA on it; anything else it refuses, or computes wrongly",
        text=(
            "--print-vllm writes the command line of a single server. Its runs are adapters on the same base, or "
            "one model that was fine-tuned in full. Ask for the line of each base by itself. Adapters with PiSSA, DoRA "
            "or layers that were trained whole (modules_to_save) are for vLLM when they are merged: luthier merge RUN. "
            "luthier serve without --print-vllm takes all of them together, if the memory holds their bases."
        ),
    ),
}
