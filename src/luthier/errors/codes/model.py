"""Codes of the family E-MODEL."""

from luthier.errors.codes.base import Explanation

MODEL: dict[str, Explanation] = {
    "E-MODEL-001": Explanation(
        title="the base model cannot be had",
        why="training starts from the weights of a base model, and they are not on this machine",
        text=(
            "The name in model.model_name_or_path is neither a local folder nor a model in the local cache, and "
            "the hub could not be asked: there is no network, or HF_HUB_OFFLINE is set. Download the model once "
            "on a machine with network (`hf download NAME`), or point the key at a local folder with "
            "config.json, *.safetensors and a tokenizer."
        ),
    ),
    "E-MODEL-002": Explanation(
        title="access to the base model is refused",
        why="the owner of these weights asks you to accept a licence before you may download them",
        text=(
            "Gated models such as Llama need two things: accept the licence on the model's page with your "
            "account, and a token of that account on this machine (`hf auth login`, or the environment variable "
            "HF_TOKEN). Never write the token into the YAML."
        ),
    ),
    "E-MODEL-003": Explanation(
        title="no such model on the hub",
        why="the hub was asked and has no model of that name (or it is private)",
        text=(
            "Check the spelling of model.model_name_or_path (owner/name), and model.revision if you set one. "
            "Private models look like missing ones until you log in with `hf auth login`."
        ),
    ),
    "E-MODEL-004": Explanation(
        title="the model folder is not complete",
        why="a model folder needs config.json, weights in safetensors format and a tokenizer",
        text=(
            "A local model folder lacks one of its parts. Weights in pickle format (pytorch_model.bin) are not "
            "loaded, because loading a pickle runs whatever code is in it; convert them once with transformers' "
            "save_pretrained. The folder of a run holds an adapter, which becomes a model with luthier merge."
        ),
    ),
    "E-MODEL-005": Explanation(
        title="the model brings its own Python code",
        why="loading it would run code from the model repository on this machine",
        text=(
            "Luthier loads only architectures that transformers itself contains, and refuses every JSON file of a "
            "model, a tokenizer or an adapter that names code elsewhere: auto_map, kernels to fetch, classes with a "
            "path. Where transformers has the architecture by itself, deleting auto_map from the file is enough. If "
            "you have read the repository's code and trust it, set model.trust_remote_code: true and pin "
            "model.revision to the commit you have read."
        ),
    ),
    "E-MODEL-006": Explanation(
        title="the tokenizer has no end-of-sequence token",
        why="without one the model can never learn where an answer ends",
        text=(
            "Every trained answer ends with the tokenizer's EOS token. Use a tokenizer that has one, or add "
            "`eos_token` to its tokenizer_config.json."
        ),
    ),
    "E-MODEL-007": Explanation(
        title="tokenizer and model do not fit",
        why="a token id beyond the model's embedding would read memory that is not there",
        text=(
            "The tokenizer knows more tokens than the model has embeddings. It was probably taken from another "
            "model: leave model.tokenizer_name_or_path empty to use the one beside the weights. Where only special "
            "tokens were added beyond the embeddings, as in some published models, texts without them are fine."
        ),
    ),
    "E-MODEL-008": Explanation(
        title="the adapter does not fit the model's layers",
        why="layers that get no adapter do not learn, and you would notice only when the run is over",
        text=(
            "lora.target_modules and lora.modules_to_save are compared with the names of the model's layers, and a "
            "name fits none of them, or a layer is of a kind that takes no adapter. `all-linear` fits every "
            "architecture; the message lists the names that this model has."
        ),
    ),
    "E-MODEL-009": Explanation(
        title="the weights do not match the model's config.json",
        why="layers without weights in the file would silently start from random numbers",
        text=(
            "The safetensors files lack some of the layers that config.json describes, or hold them in other "
            "shapes. The download may be incomplete: delete the folder and fetch it again."
        ),
    ),
    "E-MODEL-010": Explanation(
        title="a weights file is broken",
        why="a truncated or damaged file would give a model that writes nonsense",
        text=(
            "A safetensors file is shorter than its header says or cannot be parsed, usually because a download "
            "or a copy was cut short. Delete that file and fetch it again. Or the weights of a run are not those that "
            "it wrote, by the SHA-256 in the manifest.json beside them: copy the folder again. Who changed them on "
            "purpose deletes that file."
        ),
    ),
    "E-MODEL-011": Explanation(
        title="packed documents are not kept apart by this model",
        why="documents would see each other, and the loss would be of text that does not exist",
        text=(
            "Before the first step Luthier packs two documents, changes the first and looks whether the second moves: "
            "with this model it does, or its attention needs something that the packed form does not compute. Set "
            "training.packing: false; rows are then padded, which is slower and equally correct."
        ),
    ),
    "E-MODEL-012": Explanation(
        title="there is no adapter to load",
        why="only a finished run has all that an answer needs: weights, tokenizer, template and where to stop",
        text=(
            "Give the output folder of a finished run, or its final_model/. It holds the adapter "
            "(adapter_model.safetensors; model.safetensors after full fine-tuning) with the tokenizer, the prompt "
            "template and generation_config.json. Folders named `checkpoint-<step>` lack these: they are for --resume."
        ),
    ),
    "E-MODEL-013": Explanation(
        title="this is no causal language model",
        why="fine-tuning here teaches a model to write the next token from the ones before it, and this one does not",
        text=(
            "Luthier trains models of transformers' AutoModelForCausalLM: Llama, Qwen, Mistral, Gemma, GPT and their "
            "like. Encoders (BERT), encoder-decoders (T5) and models of images or sound are something else. Point "
            "model.model_name_or_path at a causal language model."
        ),
    ),
    "E-MODEL-014": Explanation(
        "The lean path does not give this model's numbers",
        "A run that computes something else than its model would train an adapter that does not fit it.",
        "Before training, loss and gradients of a few tokens are computed both ways. They differ by more than "
        "rounding, so this version of transformers or this model does something that the lean path does not know. "
        "Write lean_path: false, which uses the model's own layers, and report it.",
    ),
    "E-MODEL-015": Explanation(
        "The base cannot be computed in 8-bit floats here",
        "Training would stop in the first step, or go on with wrong numbers.",
        "Before training, a few tokens go through the 8-bit products and through plain ones of the same rounded "
        "numbers. Either the sizes of a layer are no multiples of 16, or this torch or CUDA does not multiply "
        "as it should: the message says which. Write base_precision: default.",
    ),
    "E-MODEL-016": Explanation(
        "fsdp cannot read this model shard by shard",
        "A rank would have to hold the whole model to put its tensors together, which is what fsdp is there to avoid.",
        "With fsdp each rank reads one tensor at a time and keeps its part, so each tensor of the model has to be one "
        "tensor of its files, in one number format. Some mixtures of experts are stored in pieces that transformers "
        "puts together when it loads them. Write fsdp: false, with which each process holds the whole model.",
    ),
    "E-MODEL-017": Explanation(
        "The base is not the one that the run was trained on",
        "On other weights an adapter is another model than the one that was trained and measured, even if it fits.",
        "final_model/luthier.json holds the hashes of the weights that it was trained on (`base_files`), and those "
        "of the base are others: it was replaced or trained again, or --base names another model. Give the folder, or "
        "with revision the commit, that it was trained on. To use the adapter on other weights on purpose, write "
        '`"base_files": {}` there; nothing is compared then.',
    ),
}
