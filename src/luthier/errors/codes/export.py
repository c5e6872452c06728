"""Codes of the family E-EXPORT: a finished run for other programs."""

from luthier.errors.codes.base import Explanation

EXPORT: dict[str, Explanation] = {
    "E-EXPORT-001": Explanation(
        title="the destination is there already",
        why="what lies there would be lost",
        text=(
            "An export goes into a folder of its own. --overwrite replaces a folder that an earlier export wrote and "
            "that nobody has changed since; anything else is never touched. Name another folder: --to of "
            "`luthier merge`, --out of `luthier export`."
        ),
    ),
    "E-EXPORT-002": Explanation(
        title="what was exported is not what was trained",
        why="it would answer otherwise than the model whose answers you have measured",
        text=(
            "Every export is loaded again and compared with the run on held-out prompts: the mean KL divergence of "
            "its probabilities and the share of equal likeliest tokens have bounds, far beyond what rounding does. "
            "This one lies outside, and nothing was left at its destination. Usual reasons: --base names another "
            "model than that of the training, an adapter that was trained on 4-bit weights is used on others, or a "
            "number format that is too narrow for these weights."
        ),
    ),
    "E-EXPORT-003": Explanation(
        title="this model cannot become a GGUF file here",
        why="a file that only looks right computes something else",
        text=(
            "Luthier writes GGUF for the architectures whose layout it knows exactly: Llama, Mistral, Qwen2 and Qwen3, "
            "with rotary positions of the kinds default, linear and llama3. The message names what is different. "
            "`luthier merge RUN` writes the merged model, which llama.cpp's own converter may take."
        ),
    ),
    "E-EXPORT-004": Explanation(
        title="llama.cpp would cut texts into other tokens",
        why="a model that reads other tokens than those of its training answers worse, and nothing says so",
        text=(
            "A GGUF file names one of the ways to split text that are built into llama.cpp. The tokenizer of this "
            "model splits in a way that is not among them, or llama.cpp gave other token ids for the same text. "
            "`--allow tokenizer` writes the file all the same: it is then right for programs that send token ids, and "
            "answers otherwise to those that send text."
        ),
    ),
    "E-EXPORT-005": Explanation(
        title="the chat template has no counterpart in Ollama",
        why="Ollama would ask the model in other words than those of its training",
        text=(
            "Ollama's templates join fixed pieces and the messages; a template that looks into the messages, counts "
            "them or rewrites them cannot be written so. Use the GGUF file with llama.cpp, which renders the template "
            "itself, or train with a plainer one (data.prompt_template)."
        ),
    ),
    "E-EXPORT-006": Explanation(
        title="others could not use this adapter",
        why="an adapter needs its base, and this one lies only on your machine",
        text=(
            "The run names a local folder as its base model, or none. Give the name that the base has on the hub with "
            "--base-name OWNER/NAME, or push the merged model: --merged."
        ),
    ),
    "E-EXPORT-007": Explanation(
        title="llama.cpp does not take the file",
        why="a file that is not opened once here would fail where you need it",
        text=(
            "The GGUF file was written and then opened by llama.cpp in a process of its own, which failed or did not "
            "end; the message holds its last words. Nothing was left at the destination. Please report it with the "
            "architecture."
        ),
    ),
    "E-EXPORT-008": Explanation(
        title="the hub did not take it",
        why="nothing was published",
        text=(
            "The folder is whole on this machine, and uploading it failed. Without network, or with HF_HUB_OFFLINE "
            "set, nothing can be pushed; without a token that may write (hf auth login), the hub refuses; into a "
            "repository that is public, Luthier sends nothing. The folder can be pushed by hand: "
            "hf upload OWNER/NAME FOLDER --exclude manifest.json."
        ),
    ),
    "E-EXPORT-009": Explanation(
        title="a weight does not fit into the number format",
        why="it would become infinite, and every answer with it",
        text=(
            "float16 ends at 65504, and some models have larger weights. bfloat16 has the range of float32: "
            "--dtype bfloat16, or --quant bf16 for GGUF. A weight that is not a number comes from a damaged file."
        ),
    ),
    "E-EXPORT-010": Explanation(
        title="the prompts cannot be read",
        why="without prompts there is nothing to compare an export on",
        text="--prompts takes a text file (UTF-8) with one instruction a line, and at least one.",
    ),
    "E-EXPORT-011": Explanation(
        title="a library for this export is not installed",
        why="the file is written by the library of the people who defined its format",
        text="GGUF files need the library gguf, an extra of Luthier. Install it with the command shown.",
    ),
    "E-EXPORT-012": Explanation(
        title="the results cannot be read",
        why="a card with numbers that nobody measured would be worse than one without",
        text="--results takes the file that `luthier compare RUN --json FILE` wrote. The card quotes it.",
    ),
}
