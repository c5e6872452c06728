"""Codes of the family E-CFG: reading the YAML (001 to 019), combinations of keys and facts (020 and on)."""

from luthier.errors.codes.base import Explanation

CONFIG: dict[str, Explanation] = {
    "E-CFG-001": Explanation(
        "The config file cannot be read",
        "Without its config a run has nothing to do.",
        "The path does not exist, is a folder, or may not be read by you. Paths are relative to the folder that you "
        "start luthier from. Name a YAML file, for example configs/training_config.yaml. The plan.yaml of a run is its "
        "record, and no config: --from reads it.",
    ),
    "E-CFG-002": Explanation(
        "The config is not UTF-8 text",
        "Guessing an encoding would change names and prompts silently.",
        "YAML files are UTF-8 (a byte-order mark is fine). Some editors on Windows save UTF-16 or Latin-1. Save the "
        "file as UTF-8, or convert it with iconv.",
    ),
    "E-CFG-003": Explanation(
        "The config is too large",
        "A file over 1 MiB is most likely a dataset or a checkpoint, given by mistake.",
        "A full training_config.yaml has a few kilobytes. Check that you named the config and not some other file.",
    ),
    "E-CFG-004": Explanation(
        "The YAML has a mistake in its form",
        "From this line on nobody can tell what was meant.",
        "YAML is `key: value`, one a line; what belongs to a section is indented below it by two spaces, never tabs. "
        'Text with ": ", "#" or a leading *, & or @ goes in quotes. The mistake is at the column shown, or in the '
        "line before it.",
    ),
    "E-CFG-005": Explanation(
        "Something else stands where keys belong",
        "A config is sections with keys; a list or a single value cannot be matched to any of them.",
        "At the top of the file stand sections (model, data, training, ...), and in each of them `key: value` lines, "
        "indented. Move the value below the key it was meant for.",
    ),
    "E-CFG-006": Explanation(
        "One key is set twice",
        "Most YAML readers keep the last one silently; you could not know which value was trained with.",
        "The same key stands twice, or once under its own name and once under the name that another tool gives it, or "
        "two overrides set it. Keep one of the two.",
    ),
    "E-CFG-007": Explanation(
        "The YAML is nested too deep, or holds too much",
        "Anchors that repeat each other can make a small file fill all memory.",
        "Anchors (&name) and aliases (*name) are allowed, but all values written out may be 20,000 at most and 20 "
        "levels deep. A file with more than 500 keys is no training config. Write the values where they are needed.",
    ),
    "E-CFG-008": Explanation(
        "Nobody knows this key",
        "A misspelt key that is ignored means a run with a value you did not choose.",
        "The key is neither one of Luthier's nor one that Luthier knows from Axolotl, LLaMA-Factory, Unsloth, TRL or "
        "transformers. Most often a letter is wrong: the nearest known key is named. `luthier schema` writes the file "
        "with which editors complete keys.",
    ),
    "E-CFG-009": Explanation(
        "A key of another tool asks for something that Luthier does not do",
        "Leaving it out silently would train something else than you asked for.",
        "Luthier knows the key and cannot honour this value of it. Write what the fix names, or remove the line.",
    ),
    "E-CFG-010": Explanation(
        "The value is of the wrong kind",
        "Guessing what was meant could train with another value than you think.",
        "Numbers are written without quotes, whole numbers without a decimal point, switches as true or false, lists "
        "in [square brackets]. An empty value is null. Write the value as the fix shows.",
    ),
    "E-CFG-011": Explanation(
        "The value is outside what is possible",
        "Training could not start with it, or could not learn.",
        "The message names the range, or the words that can stand there, and a value to start from. "
        "`luthier explain KEY` tells what the key does.",
    ),
    "E-CFG-012": Explanation(
        "An environment variable in a path is not set",
        "The path would lead to a folder with a dollar sign in its name.",
        "${NAME} in a path is replaced by the environment variable NAME. Export it before you start luthier, or write "
        "the path out.",
    ),
    "E-CFG-013": Explanation(
        "A secret stands in the config",
        "The config is copied into the run's folder and its checkpoints, which are shared.",
        "Tokens and keys are read from the environment only: HF_TOKEN for the hub, WANDB_API_KEY for Weights & Biases. "
        "Refused are keys that are named like a secret, text of the shape of a token, a user or password in a URL, and "
        "the value of any environment variable whose name says that it is one. Remove it, and revoke the token if the "
        "file has been shared already.",
    ),
    "E-CFG-014": Explanation(
        "This is no override",
        "An argument that is ignored would start a run with values you did not choose.",
        "First comes the config, then come overrides: key=value, without dashes and without spaces around the equals "
        "sign, for example learning_rate=1e-4 or lora.r=32. Quote values that the shell would change: "
        "'target_modules=[q_proj, v_proj]'.",
    ),
    "E-CFG-015": Explanation(
        "This is no path",
        "An empty path, one with control characters, or too long a name leads nowhere.",
        "The value is empty, holds a line break or another character that cannot be shown, or is longer than a name "
        "may be. Write a folder, a file or a hub id (owner/name).",
    ),
    "E-CFG-016": Explanation(
        "The YAML has a tag",
        "Tags (!!python/..., !include) can run code or read files when a config is loaded.",
        "Luthier reads plain values only. Remove the word that begins with ! and write the value itself.",
    ),
    "E-CFG-020": Explanation(
        "4-bit weights cannot be trained in full",
        "A 4-bit weight can take 16 values; gradient steps are far smaller than the gaps between them.",
        "QLoRA freezes the 4-bit weights and trains an adapter beside them. Set finetuning_type: lora, or "
        "load_in_4bit: false to train all weights in 16 or 32 bits.",
    ),
    "E-CFG-021": Explanation(
        "A model that starts from scratch cannot be quantized",
        "Quantization compresses weights that are frozen; random ones still have to learn.",
        "With from_scratch every weight is trained. Set load_in_4bit: false.",
    ),
    "E-CFG-022": Explanation(
        "bitsandbytes is missing",
        "4-bit weights and 8-bit optimizers are computed by this library.",
        "Install it with `pip install bitsandbytes`, or do without: load_in_4bit: false and optim: auto.",
    ),
    "E-CFG-023": Explanation(
        "The device cannot compute this number format",
        "Training would fail at the first step, or be many times slower.",
        "bfloat16 needs a GPU from 2020 or later (compute capability 8.0); an older one has float16. dtype: auto "
        "picks what this device computes.",
    ),
    "E-CFG-024": Explanation(
        "This model cannot keep packed documents apart",
        "What comes first in the row would leak into what follows.",
        "Packing lays examples end to end, each blind to the others. Models with recurrence across positions carry a "
        "state over the border. Set packing: false, or auto.",
    ),
    "E-CFG-025": Explanation(
        "Evaluation is asked for, but there is nothing to evaluate",
        "Early stopping and keeping the best weights compare evaluations; without them they do nothing.",
        "Hold rows out with val_set_size (0.05 is 5 %) or name an eval_split, and leave eval_steps above 0. Or remove "
        "early_stopping_patience and load_best_model_at_end.",
    ),
    "E-CFG-026": Explanation(
        "The learning rate would end above its peak",
        "A schedule that falls cannot end higher than it starts.",
        "min_learning_rate is where the learning rate ends, learning_rate its peak. A tenth of the peak is usual.",
    ),
    "E-CFG-027": Explanation(
        "The paged optimizer needs CUDA",
        "Its state lives in memory that the GPU's driver pages in and out.",
        "paged_adamw_8bit works on NVIDIA GPUs only. optim: auto takes AdamW, which runs everywhere.",
    ),
    "E-CFG-028": Explanation(
        "PiSSA cannot start from 4-bit weights",
        "PiSSA splits each weight by its singular values, for which the weight must be there in 16 or 32 bits.",
        "The singular values of 4-bit codes mean nothing, and peft refuses to compute them. Set init_lora_weights: "
        "default, or load_in_4bit: false to start from the weights themselves.",
    ),
    "E-CFG-029": Explanation(
        "The rank is larger than the layer",
        "A matrix cannot have a higher rank than its smaller side; the surplus costs memory and learns nothing.",
        "r is usually 8 to 64, and the model's hidden size is the limit. More capacity comes from more target_modules, "
        "or from finetuning_type: full.",
    ),
    "E-CFG-030": Explanation(
        "The warmup is as long as the whole run",
        "The learning rate would never reach its peak.",
        "A few percent of the steps are enough: warmup_ratio: 0.03. Check the number of steps too: it follows from "
        "the rows, num_train_epochs, the batch and max_steps.",
    ),
    "E-CFG-031": Explanation(
        "The longest row does not fit into one pass",
        "A row is never cut between two passes, so this one could not be trained.",
        "max_tokens_per_micro_batch must be at least the longest row. Raise it, or lower max_seq_length.",
    ),
    "E-CFG-032": Explanation(
        "A model that starts from scratch has to be trained in full",
        "An adapter beside frozen random weights can learn next to nothing.",
        "from_scratch begins with random weights. Set finetuning_type: full, or from_scratch: false.",
    ),
    "E-CFG-033": Explanation(
        "val_set_size is neither a share nor a number of rows",
        "It is not clear how many rows to hold out.",
        "Below 1 it is a share (0.05 is 5 %), from 1 on a whole number of rows (500).",
    ),
    "E-CFG-034": Explanation(
        "The lean path cannot compute this run",
        "It is written out for plain LoRA on models of Llama's shape; anything else would get other numbers.",
        "lean_path: auto takes it where it is exact, and peft's own layers everywhere else. The message names what is "
        "in its way: change that to go faster, or leave it.",
    ),
    "E-CFG-035": Explanation(
        "This device does not multiply 8-bit floats",
        "Without the hardware for it, 8-bit floats cost accuracy and are slower than 16 bits.",
        "base_precision: fp8 needs an NVIDIA GPU of compute capability 8.9 or more (Ada: RTX 4090, L40S; Hopper: H100, "
        "H200; Blackwell). A CPU computes the same numbers plainly, to try it out. Write base_precision: default; for "
        "less memory load_in_4bit: true.",
    ),
    "E-CFG-036": Explanation(
        "8-bit floats cannot be had in this run",
        "They are frozen weights of the lean path; anything else in their place would be another model.",
        "base_precision: fp8 rounds the weights of the base's files once. Weights of 4 bits are rounded already and "
        "smaller, so the two do not go together: take load_in_4bit for memory, fp8 for speed. It needs frozen weights "
        "(finetuning_type: lora, and no init_lora_weights: pissa, which changes them), the lean path with all that it "
        "asks for, and bfloat16 around it on a GPU.",
    ),
    "E-CFG-037": Explanation(
        "fsdp cannot shard this run",
        "Parts of it need whole weights in one place, and with fsdp no process has them.",
        "DoRA and PiSSA compute with whole weight matrices when the adapter is made, modules_to_save copies whole "
        "layers, from_scratch draws a whole model, and the 8-bit optimizer does not know sharded tensors. Use plain "
        "LoRA or full fine-tuning with AdamW, or fsdp: false, with which each process holds the whole model.",
    ),
    "E-CFG-038": Explanation(
        "This model cannot compute its layers again",
        "A run that counts on the memory which that saves would run out of it.",
        "gradient_checkpointing keeps a layer's input only, and computes the rest again in the backward pass. Some "
        "architectures in transformers are not written for that. Write gradient_checkpointing: auto, and for less "
        "memory a smaller max_tokens_per_micro_batch or load_in_4bit: true.",
    ),
    "E-CFG-039": Explanation(
        "DPO cannot be done so",
        "The loss compares two whole answers to one prompt; with anything else it would compare something else.",
        "objective: dpo weighs the probability of a chosen answer against that of a rejected one, both after the same "
        "prompt: prompts are not learned (completion_only_loss: true), and no row is cut into parts (overlong_rows: "
        "drop or truncate). Sharding the model over processes (fsdp) is not built for it: without it each process "
        "holds the whole model, which works on several devices, too.",
    ),
    "E-CFG-040": Explanation(
        "This is no whole record of a run",
        "A run that is repeated from something else would look like the same run and be another.",
        "--from takes the plan.yaml that a run wrote into its output folder, or that folder. It ends with the SHA-256 "
        "of its own lines, so that a file that was cut off, damaged or edited is noticed, and so is one of another "
        "program or of an older version. To change something, leave the file as it is and write KEY=VALUE behind it. "
        "The part `config` of any plan.yaml, saved as a file of its own, is a config.",
    ),
}
