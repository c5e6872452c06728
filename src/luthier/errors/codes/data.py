"""Codes of the family E-DATA: 00x where rows come from, 01x files, 02x shapes, 03x templates, 04x rows as a whole."""

from luthier.errors.codes.base import Explanation

DATA: dict[str, Explanation] = {
    "E-DATA-001": Explanation(
        "dataset not found",
        "Without rows there is nothing to train on.",
        "`data.datasets[].path` names neither a file or folder here nor a dataset on the Hugging Face hub. Relative "
        "paths start at the folder that luthier is started from. A hub id has the form owner/name. Correct the path; "
        "the message names the nearest file that does exist.",
    ),
    "E-DATA-002": Explanation(
        "hub dataset cannot be reached",
        "The rows are not on this machine, and the hub does not answer.",
        "The dataset lies on the Hugging Face hub, is not in the local cache, and the hub cannot be reached: no "
        "network, a proxy, or offline mode (HF_HUB_OFFLINE=1). Download it once where there is a network with "
        "`hf download OWNER/NAME --repo-type dataset --local-dir DIR` and set `path` to that folder, or use any "
        "local .jsonl, .json, .csv or .parquet file.",
    ),
    "E-DATA-003": Explanation(
        "hub dataset is gated or private",
        "The hub gives these rows only to accounts that were let in.",
        "Open the dataset's page on huggingface.co, accept its terms, create a read token under Settings / Access "
        "Tokens, and run `hf auth login` or set HF_TOKEN in the environment. Never write the token into the YAML.",
    ),
    "E-DATA-004": Explanation(
        "no such configuration, split or revision",
        "The dataset exists, but not this part of it.",
        "Hub datasets have configurations (`name`), splits (`split`) and revisions. The message lists those that the "
        "dataset has where the hub tells them; write one of them into the YAML.",
    ),
    "E-DATA-005": Explanation(
        "no such split in a local file or folder",
        "A file is one split, called train; a folder has the splits that its files' names say.",
        "For a file, `split` is `train`, or a slice of it such as `train[:500]`, `train[10%:20%]` or `train[-100:]`. "
        "In a folder, files and folders named train, validation (valid, val, dev) or test (eval) are those splits, and "
        "so is what stands before `-00000-of-00001`; `split` chooses one, and `eval_split` another. Files without such "
        "a word are train, unless test files lie beside them: then give the path of a file.",
    ),
    "E-DATA-006": Explanation(
        "not a file that can be read as rows",
        "Reading other bytes as text would train on noise.",
        "Rows are read from .jsonl, .json, .csv and .parquet files. The file has another suffix, or its first bytes "
        "say that it is something else than its suffix claims (compressed, Parquet, a git-lfs pointer). Unpack, "
        "convert or rename it as the message says.",
    ),
    "E-DATA-007": Explanation(
        "file is not UTF-8",
        "Guessing the encoding would silently damage every letter outside ASCII.",
        "Text files are read as UTF-8, with or without a byte order mark. Convert the file with the iconv command in "
        "the message, and look at a few lines with accents or symbols afterwards.",
    ),
    "E-DATA-008": Explanation(
        "no rows",
        "Without rows there is nothing to train on.",
        "The file is empty, holds only blank lines, or the slice selects nothing; or the rows lie in a folder "
        "within that folder. Check the path and the slice.",
    ),
    "E-DATA-009": Explanation(
        "file cannot be opened",
        "The rows in it cannot be read.",
        "The operating system refused: permissions, a broken disk, a damaged Parquet file, or a file that is still "
        "being written; or `datasets` could not read a row of a set of the hub. The message repeats what it said.",
    ),
    "E-DATA-010": Explanation(
        "broken JSON",
        "A row that cannot be parsed would be missing from training without anybody knowing.",
        "Each line of a .jsonl file is one JSON object. The message names the line and column where parsing stopped "
        "and shows the text around it. Usual causes: a line break inside a string (write \\n), a missing quote, a "
        "comma after the last field, or a file that was cut off. Correct the line or delete it.",
    ),
    "E-DATA-011": Explanation(
        "row is not an object",
        "Fields are found by name; a list or a bare value has none.",
        'Each row must be a JSON object such as {"instruction": "...", "output": "..."}.',
    ),
    "E-DATA-012": Explanation(
        "row beyond all bounds",
        "A line of many megabytes, endless nesting or a number of thousands of digits is damage or an attack.",
        "A line may have 16 MiB, the text of a row 1 MiB, nesting some hundred levels and a number 4,300 digits. Look "
        "at the line; delete it, or split it into several rows.",
    ),
    "E-DATA-013": Explanation(
        "broken CSV",
        "A row with too many or too few fields has its texts under the wrong names.",
        "The first line holds the column names, each once; every row has as many fields; a field with commas, quotes "
        'or line breaks is enclosed in double quotes, and a quote in it is doubled (""). Export the file again, or '
        "convert it to .jsonl. Where the comma is the decimal sign, Excel writes semicolons: the command in the "
        "message makes commas of them and changes no field.",
    ),
    "E-DATA-014": Explanation(
        "character that is no text",
        "NUL and lone surrogates cannot be tokenized; half an emoji is a sign of text cut in the wrong place.",
        "The text holds a NUL character or half of a surrogate pair (for example \\ud83d alone). Usually a program "
        "cut the text at a fixed length. Repair or delete the row.",
    ),
    "E-DATA-015": Explanation(
        "dataset changed while it was read",
        "Half of the rows would be old and half of them new.",
        "The file has another size or time than when reading began. Wait until whatever writes it is done, then "
        "start again.",
    ),
    "E-DATA-016": Explanation(
        "one field twice in a row",
        "JSON readers keep the last one and say nothing; half of the row would be lost without anybody knowing.",
        "An object of the row has two fields of the same name, usually because rows were joined by hand or a program "
        "wrote a column twice. Keep one of the two.",
    ),
    "E-DATA-020": Explanation(
        "format not recognised",
        "Which column is the question and which the answer decides what is learned.",
        "With `format: auto` the columns are compared with the known shapes: alpaca (instruction, output, optional "
        "input), sharegpt (conversations), messages (messages), prompt-completion (prompt, completion) and text "
        "(text). Name the format, and map your columns with `columns: {expected: yours}`, or for `luthier init` with "
        "--columns expected=yours.",
    ),
    "E-DATA-021": Explanation(
        "several formats fit",
        "Each reading trains on something else; guessing could train on the wrong columns for hours.",
        "The columns fit more than one shape. Say which one is meant with `format:`.",
    ),
    "E-DATA-022": Explanation(
        "column missing",
        "The format cannot be read without it.",
        "The format needs a column that the rows do not have, or `columns` renames one that does not exist. Compare "
        "with the list of columns found, and map them: `columns: {instruction: question, output: answer}`.",
    ),
    "E-DATA-023": Explanation(
        "wrong type in a field",
        "Only text can be learned: anything else would be trained on as its name, or not at all.",
        "The field must be there and be text (for conversations: a list of messages, whose content may be a list of "
        "text parts; an answer's `weight` is 0 or 1). Correct or delete the rows named; `bad_rows: drop` leaves them "
        "out.",
    ),
    "E-DATA-024": Explanation(
        "row without an answer",
        "With an empty answer the row teaches only to stop at once; usually the answer is in the wrong column.",
        "The prompt has text, the answer is empty or only white space. Often prompt and answer were joined into one "
        "field: split them, use `format: text`, or delete the rows. A conversation in which each answer has "
        "`weight: 0` has nothing to learn either. `bad_rows: drop` leaves such rows out.",
    ),
    "E-DATA-025": Explanation(
        "unknown role",
        "Text under an unknown role cannot be placed in the template.",
        "Roles are system, user and assistant (in sharegpt also human and gpt). Tool calls are not supported. Rename "
        "the role, or remove the row; `bad_rows: drop` leaves such rows out.",
    ),
    "E-DATA-026": Explanation(
        "turns out of order",
        "Templates expect question and answer in turn; anything else is rendered as something the model never meets.",
        "A conversation is an optional system message, then user and assistant in turn, ending with the assistant. "
        "Merge two messages of the same role into one; cut off a last question without an answer. `bad_rows: drop` "
        "leaves such rows out.",
    ),
    "E-DATA-027": Explanation(
        "row without a question",
        "The model would learn to answer nothing in particular.",
        "The prompt is empty or only white space. For rows that are plain text without question and answer, use "
        "`format: text` and a column `text`. `bad_rows: drop` leaves such rows out.",
    ),
    "E-DATA-028": Explanation(
        "rows for preference training",
        "Which answer is the worse one would be lost: it would be left out, or learned like the better one.",
        "Rows with a chosen and a rejected answer, or with an answer and a label, are made for DPO, ORPO or KTO, which "
        "compare answers, and the config's objective is to learn answers. Luthier does DPO: write "
        "`training.objective: dpo` for rows with prompt, chosen and rejected; a model tuned on answers is where it "
        "usually starts. To learn the good answers alone, name the format and map the columns: `format: alpaca` and "
        "`columns: {instruction: prompt, output: chosen}`; where chosen is a list of messages, `format: messages` and "
        "`columns: {messages: chosen}`.",
    ),
    "E-DATA-029": Explanation(
        "no pairs to compare",
        "DPO learns from the difference between a better and a worse answer, and one answer has none.",
        "`training.objective: dpo` needs rows with prompt, chosen and rejected (format preference) from every dataset. "
        "For rows of questions and answers write `training.objective: sft`. Do not mix the two in one run: train on "
        "answers first, and on pairs from the model that comes out.",
    ),
    "E-DATA-030": Explanation(
        "tokenizer has no chat template",
        "Without it nobody can say how the model expects a conversation to be written.",
        "Base models usually come without a chat template, and one that a run here trained on rows of final text has "
        "one that adds nothing. Use `prompt_template: alpaca` (or `auto`, which then picks Alpaca), or write a "
        "template into a .jinja file and give its path.",
    ),
    "E-DATA-031": Explanation(
        "prompt template not found",
        "The prompt the model is trained with must be known exactly.",
        "`prompt_template` is `auto`, `alpaca`, `chat`, or the path of a readable .jinja file, relative to the folder "
        "that luthier is started from.",
    ),
    "E-DATA-032": Explanation(
        "prompt template does not work",
        "A template that loses the question or the answer trains on something else than your rows.",
        "The template was tried on a short conversation and failed: a syntax error, a text that it leaves out, or a "
        "prompt (add_generation_prompt=true) that is not how the whole conversation begins. Correct it; the Hugging "
        "Face documentation on chat templates explains the variables.",
    ),
    "E-DATA-033": Explanation(
        "template refuses a row or leaves a part of it out",
        "The row cannot be written in the form the model expects.",
        "Templates may refuse what the model was not made for, for example a system message, or say nothing and leave "
        "it out. Give the template a branch for that role, change those rows, or choose another template.",
    ),
    "E-DATA-034": Explanation(
        "template rewrites earlier turns",
        "The answer would be trained after another text than the one it is generated after.",
        "Some templates change what was said before when the conversation goes on, for example by removing the "
        "thinking of earlier answers. Then the tokens of an answer cannot be found by construction. Use rows of one "
        "question and one answer, or a template that only ever appends.",
    ),
    "E-DATA-035": Explanation(
        "template writes BOS twice",
        "Two beginnings of text are something the model never saw; quality drops without any error.",
        "The beginning-of-sequence token stands in the rendered text more than once. Remove `bos_token` from all "
        "places of the template but one; luthier adds it by itself where the tokenizer expects it.",
    ),
    "E-DATA-036": Explanation(
        "tokenizer has no end-of-sequence token",
        "A model that never sees the end never learns to stop.",
        "Set `eos_token` in the tokenizer's tokenizer_config.json to the token that ends a text.",
    ),
    "E-DATA-037": Explanation(
        "chosen and rejected are the same",
        "A pair without a difference has a gradient of 0 and still takes its place in a step.",
        "Both answers of the row say the same. Give it two different ones, or delete it; `bad_rows: drop` leaves such "
        "rows out.",
    ),
    "E-DATA-038": Explanation(
        "chosen and rejected do not part at an answer",
        "The two would be compared as answers to different prompts.",
        "Whole conversations in chosen and rejected have to be the same up to an answer of the assistant, and differ "
        "from there on: what they share is the prompt. Here they part at a user's or system's turn, or one of them is "
        "the beginning of the other. Correct or delete the rows named; `bad_rows: drop` leaves them out.",
    ),
    "E-DATA-039": Explanation(
        "pairs without a prompt",
        "The common beginning of two texts may go on into the answers, so that a part of them would not be compared.",
        'chosen and rejected are answers alone, or texts that hold their prompt in themselves, as in "Human: ... '
        'Assistant: ...". Only you know where it ends. Write three columns prompt, chosen and rejected, or lists of '
        "messages, which say who speaks.",
    ),
    "E-DATA-040": Explanation(
        "rows longer than max_seq_length",
        "You asked with `overlong_rows: error` not to lose or cut any row.",
        "Raise `data.max_seq_length` to the longest row named, or choose `overlong_rows: drop`, `truncate` or, for "
        "plain text, `split`.",
    ),
    "E-DATA-041": Explanation(
        "no usable rows",
        "Nothing is left to train on.",
        "All rows were left out for the reasons that the message counts. Most often `max_seq_length` is shorter than "
        "the prompts: raise it, or shorten the rows.",
    ),
    "E-DATA-042": Explanation(
        "rows cannot be split",
        "Evaluation needs rows that are not trained on, and training needs rows too.",
        "`val_set_size` asks for as many rows as there are or more, or all rows have the same prompt and so belong "
        "together. Ask for fewer, or set it to 0.",
    ),
    "E-DATA-043": Explanation(
        "cache folder cannot be written",
        "Tokenized rows are kept on disk, so that memory stays small and the next start is fast.",
        "The folder cannot be created or written, or the disk is full. Set `data.cache_dir` to a folder with space.",
    ),
}
