"""The field's words, each in a few sentences: what `luthier explain WORD` tells and the glossary page lists.

Keys, numbers of the log, error codes, rules and checks have texts of their own; here is what stands in those texts.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """One word.

    Attributes:
        text: What it means.
        see: Topics of `luthier explain` that belong to it.
        page: The page of the guide that tells more, as a path in docs/; empty: none.
        also: Other names of it.
    """

    text: str
    see: tuple[str, ...] = ()
    page: str = ""
    also: tuple[str, ...] = ()


TERMS: dict[str, Term] = {
    "activation": Term(
        "What a layer computes from its input, and has to remember until its backward pass. Activations grow with the "
        "tokens of a pass; weights do not. They are what runs out of memory first.",
        ("max_tokens_per_micro_batch", "gradient_checkpointing"), "memory.md",
    ),
    "adamw": Term(
        "The optimizer. It keeps two averages for each trained weight, of its gradient and of the gradient's square, "
        "and moves the weight by learning_rate x first / sqrt(second): far where gradients agree, little where they "
        "contradict each other. The averages take 8 bytes a weight.",
        ("adam_beta1", "adam_beta2", "weight_decay", "optim"), "concepts/learning-rate.md", ("adam", "optimizer"),
    ),
    "adapter": Term(
        "The small trained part beside a frozen base model: for LoRA two thin matrices at each adapted layer. It is "
        "saved alone, in peft's format, and needs its base to run.",
        ("finetuning_type", "r"), "concepts/lora.md",
    ),
    "attention": Term(
        "How a token brings in what stands earlier: its query is compared with the keys of all tokens before it, and "
        "it takes of their values the more, the better they fit. A mask hides what comes later.",
        (), "concepts/text-to-probability.md", ("self-attention", "causal mask", "attention head"),
    ),
    "backward pass": Term(
        "From the loss back through every layer to the first: it computes the gradient of each trained weight. It "
        "takes about as long as the forward pass, or twice.",
        ("grad_norm",), "concepts/gradients.md", ("backward", "backpropagation"),
    ),
    "base model": Term(
        "The model that training starts from, and that the tuned one is compared with. With LoRA its weights never "
        "change.",
        ("model_name_or_path",), "concepts/fine-tuning.md", ("base",),
    ),
    "bf16": Term(
        "bfloat16: numbers of 16 bits with the range of float32 and two to three digits (8 bits of precision). Half "
        "the memory, and several times as fast where the device has it. Trained weights stay in float32, because a "
        "small step added to a number of so few digits would be rounded away.",
        ("dtype",), "concepts/qlora.md", ("bfloat16", "float32"),
    ),
    "bos and eos": Term(
        "The tokens for the beginning and the end of a text. A model that was never trained on the end token does not "
        "learn to stop; one that sees two beginnings sees a text it was not made for. Both are checked before step 1.",
        ("end-trained", "one-bos"), "concepts/masks.md", ("bos", "eos"),
    ),
    "chat template": Term(
        "The text around a row: where the instruction stands, where the answer begins, which special tokens are "
        "between them. Training and use have to agree on it to the letter, so it is saved with the model.",
        ("prompt_template",), "concepts/masks.md", ("template", "prompt template"),
    ),
    "checkpoint": Term(
        "Everything that it takes to go on exactly from a step: trained weights, optimizer, random numbers, place in "
        "the data. Written aside, hashed, read back, and only then given its name.",
        ("save_steps", "save_minutes", "resume_from_checkpoint"), "concepts/checkpoints.md",
    ),
    "completion": Term(
        "The answer: the part of a row that the model is to learn. The prompt before it is read and, by default, not "
        "learned.",
        ("completion_only_loss",), "concepts/masks.md", ("answer", "response"),
    ),
    "confidence interval": Term(
        "A range around a measured share that says how far chance may have moved it. 95 %: of a hundred studies made "
        "like this one, about 95 have the true value inside theirs. It covers other tasks of the same kind, not "
        "another seed of the training: for that, train several.",
        (), "evaluate.md", ("ci", "interval"),
    ),
    "contamination": Term(
        "Test tasks among the rows that were trained on. The model then remembers where it should solve, and the score "
        "says nothing.",
        (), "evaluate.md", ("leakage",),
    ),
    "cross-entropy": Term(
        "The loss of language models: minus the logarithm of the probability that the right token was given, as a mean "
        "over the trained tokens.",
        ("loss", "nat"), "concepts/loss.md", ("negative log-likelihood", "nll"),
    ),
    "doctor": Term(
        "Rules that read what a run has said and tell what is wrong with it, what shows it, and which line of the YAML "
        "to change.",
        (), "doctor.md",
    ),
    "dora": Term(
        "LoRA that learns the length and the direction of each weight apart (Liu et al. 2024, who found it better than "
        "LoRA, most of all at small ranks). Slower.",
        ("use_dora", "r"), "concepts/lora.md",
    ),
    "dropout": Term(
        "Setting a random share of numbers to zero in training, so that nothing is learned that hangs on a single one.",
        ("lora_dropout",), "concepts/lora.md",
    ),
    "embedding": Term(
        "The table that turns a token's number into the numbers that the layers work on: one learned line for each "
        "token of the vocabulary. In some models the head is the same table.",
        ("modules_to_save",), "concepts/text-to-probability.md",
    ),
    "epoch": Term(
        "One pass over all rows. 18,000 rows at 16 rows a step are 1,125 steps; three epochs are 3,375. With each "
        "further epoch the model sees nothing new, and comes closer to learning rows by heart. Steps are whole: rows "
        "that would fill a part of one at the end of the run are left out, and luthier plan says how many where it "
        "matters.",
        ("num_train_epochs", "eval_loss"), "concepts/epoch-and-steps.md",
    ),
    "eval loss": Term(
        "The loss on held-out rows. When it rises while the training loss falls, the model learns by heart.",
        ("eval_loss", "val_set_size"), "concepts/loss.md", ("validation loss",),
    ),
    "fine-tuning": Term(
        "Going on with the training of a model that can already read, on rows that show one task. Full fine-tuning "
        "moves every weight; LoRA moves a few beside them.",
        ("finetuning_type",), "concepts/fine-tuning.md", ("finetuning", "sft"),
    ),
    "forgetting": Term(
        "What a tuned model does worse than its base on text that has nothing to do with the task. Measured as the "
        "difference of their losses on such text: +0.1 nats is 10.5 % more perplexity.",
        ("learning_rate", "num_train_epochs"), "evaluate.md", ("catastrophic forgetting",),
    ),
    "forward pass": Term(
        "From tokens through all layers to the logits, and to the loss. What the layers compute on the way is kept for "
        "the backward pass.",
        ("activation",), "concepts/text-to-probability.md", ("forward",),
    ),
    "gate": Term(
        "Checks before step 1, on your own rows, model and machine: for what a run would do wrong without ever "
        "failing.",
        ("one-bos", "end-trained"), "gate.md",
    ),
    "fp16": Term(
        "float16: numbers of 16 bits with three to four digits, but a small range: above 65,504 they overflow, and "
        "below 6e-8 they are 0. So the loss is multiplied by a power of two before the backward pass, and the "
        "gradients are divided by it. Where the device has bfloat16, that is the safer one.",
        ("dtype", "bf16", "E-RUN-001"), "concepts/qlora.md", ("float16", "half precision", "loss scale"),
    ),
    "gpu utilization": Term(
        "The share of time in which at least one kernel, a function of a program, runs on the GPU; a process that only "
        "waits counts for nothing. 100 % does not mean that it is used well, "
        "but 50 % means that it waits half of the time: for data, for Python, or for the disk.",
        ("gpu-idle", "tokens_per_second"), "gpu.md", ("gpu", "utilization"),
    ),
    "gradient": Term(
        "For each trained weight, how the loss would change if the weight grew a little. A step moves weights against "
        "it. Its length (grad_norm) says how strongly the rows of a step pull.",
        ("grad_norm",), "concepts/gradients.md",
    ),
    "gradient accumulation": Term(
        "Adding the gradients of several passes before one step. Two passes of 8 rows give the step of 16 rows, in the "
        "memory of 8; the gradient is the same.",
        ("gradient_accumulation_steps",), "concepts/epoch-and-steps.md",
    ),
    "gradient clipping": Term(
        "Shortening a gradient that is longer than a limit, direction kept. It keeps one strange row from throwing the "
        "weights far away.",
        ("max_grad_norm", "grad_norm"), "concepts/gradients.md", ("clipping",),
    ),
    "greedy decoding": Term(
        "Always taking the likeliest next token: no chance in it, the same answer each time.",
        (), "use.md", ("greedy", "decoding"),
    ),
    "head": Term(
        "The last matrix of a model: it makes a logit for each token of the vocabulary. In attention a head is "
        "something else: one of several that look at the earlier tokens beside each other.",
        ("logits", "modules_to_save"), "concepts/text-to-probability.md", ("lm head",),
    ),
    "held out": Term(
        "Rows that are kept from training and used to see whether what is learned carries over.",
        ("val_set_size", "eval_split"), "concepts/loss.md", ("validation set", "eval set"),
    ),
    "hyperparameter": Term(
        "A number that training does not learn: you choose it before. In Luthier these are the keys of the config, "
        "such as the learning rate.",
        ("learning_rate", "sweep"), "sweep.md",
    ),
    "inference": Term(
        "Using a model without training it: forward passes only, a token at a time when it writes.",
        ("greedy decoding",), "concepts/text-to-probability.md", ("generation",),
    ),
    "layer": Term(
        "A step of the way from tokens to logits. A transformer layer is attention and then an MLP, seven matrices "
        "together in a model of Llama's shape; a linear layer is one of these matrices.",
        ("target_modules",), "concepts/text-to-probability.md", ("mlp", "transformer layer"),
    ),
    "lean path": Term(
        "Luthier's own forward and backward pass for plain LoRA on models of Llama's shape: the same numbers as "
        "peft's layers and autograd, faster and in less memory. Taken where it is exact, tried on your model first.",
        ("lean_path",), "performance.md",
    ),
    "learning by heart": Term(
        "Loss falls on the trained rows and rises on held-out ones: the model remembers rows and does not learn the "
        "task. Fewer epochs, more rows, a lower rank, or the weights of the best evaluation.",
        ("overfitting", "load_best_model_at_end"), "concepts/loss.md", ("memorization", "overfit"),
    ),
    "logits": Term(
        "The scores that a model gives to every token of its vocabulary as the next one. Softmax makes probabilities "
        "of them: e to its score, divided by the sum over all. 32,000 scores for each position are a large part of the "
        "memory of a small model.",
        (), "concepts/loss.md", ("softmax",),
    ),
    "lora": Term(
        "Low-rank adaptation: a frozen weight W gets (lora_alpha / r) B A beside it, A with r rows and B with r "
        "columns, and only these learn. For a 2,048 x 2,048 matrix at r = 16 these are 65,536 numbers instead of "
        "4,194,304.",
        ("r", "lora_alpha", "target_modules"), "concepts/lora.md",
    ),
    "mask": Term(
        "Which tokens count. The loss mask leaves out the prompt; the attention mask keeps a token from seeing what "
        "comes after it, and packed rows from seeing each other.",
        ("completion_only_loss", "packing"), "concepts/masks.md", ("masking",),
    ),
    "merge": Term(
        "Adding the adapter into the base's weights: one plain model, no adapter to carry along. Exact up to rounding "
        "on a 16-bit base; beside a 4-bit one it is another model, and is measured.",
        (), "export.md", ("merged",),
    ),
    "nat": Term(
        "The unit of the loss: minus the natural logarithm of a probability. 0.69 nats is a guess between two equally "
        "likely tokens, 2.3 nats one between ten.",
        ("loss", "perplexity"), "concepts/loss.md",
    ),
    "nf4": Term(
        "Normal float, 4 bits: each weight is stored as one of 16 values times the largest absolute value of its block "
        "of 64. The values are quantiles of a normal distribution, so that each is taken about equally often: they lie "
        "close where weights are many.",
        ("load_in_4bit", "bnb_4bit_quant_type"), "concepts/qlora.md", ("4 bits", "4-bit"),
    ),
    "optimizer step": Term(
        "One update of the trained weights, from the gradients of all its rows: batch x accumulation x processes of "
        "them.",
        ("per_device_train_batch_size", "gradient_accumulation_steps"), "concepts/epoch-and-steps.md", ("step",),
    ),
    "packing": Term(
        "Laying rows end to end in one pass instead of filling short ones up. Each row sees only itself and counts its "
        "positions from 0, so the numbers are those of rows alone.",
        ("packing",), "concepts/packing.md",
    ),
    "padding": Term(
        "Tokens that fill short rows up to the longest one of a pass. They cost time and teach nothing.",
        ("packing",), "concepts/packing.md", ("pad",),
    ),
    "parameter": Term(
        "One number that a model has learned or learns; also called a weight. Llama-3.2-1B has 1,236 million of them.",
        ("r",), "concepts/text-to-probability.md", ("weight", "weights"),
    ),
    "pass": Term(
        "Rows that go through the model at once, forward and backward; elsewhere a micro-batch. Several passes make a "
        "step. How many there are changes time and memory, not the result.",
        ("max_tokens_per_micro_batch",), "concepts/epoch-and-steps.md", ("micro-batch", "batch"),
    ),
    "pass@k": Term(
        "The chance that at least one of k answers to a task passes its tests. pass@1 with greedy decoding is the "
        "share of tasks that are solved.",
        (), "evaluate.md", ("pass@1",),
    ),
    "perplexity": Term(
        "e to the power of the loss: how many equally likely tokens the model hesitates between, on average. A loss of "
        "1.03 is a perplexity of 2.8; 0 is a perplexity of 1.",
        ("loss",), "concepts/loss.md",
    ),
    "pissa": Term(
        "A way to start LoRA: A and B begin at the strongest directions of the weight, which are taken out of it, so "
        "that the sum is unchanged. The base beneath is then another one, which an adapter alone does not hold.",
        ("init_lora_weights",), "concepts/lora.md",
    ),
    "plan": Term(
        "Everything that a run will do, computed before it begins: each number with its arithmetic or the line that it "
        "comes from. It is kept in plan.yaml, and that file repeats the run.",
        (), "record.md",
    ),
    "prompt": Term(
        "What the model is given to go on from: the part of a row before the answer, in its template. It is read and, "
        "by default, not learned.",
        ("prompt_template", "completion_only_loss"), "concepts/masks.md", ("instruction",),
    ),
    "qlora": Term(
        "LoRA on a base whose frozen linear layers are stored in 4 bits and unpacked to multiply with them: at each "
        "use, or, where memory is free, once and kept. The adapter learns in full precision and makes up for some of "
        "the rounding. It pays where 16 bits do not fit.",
        ("load_in_4bit",), "concepts/qlora.md", ("quantization",),
    ),
    "rank": Term(
        "Two things. Of LoRA: the width of the adapter, `r`; more rank, more it can learn. Of a run on several "
        "devices: the number of one process, from 0.",
        ("r",), "concepts/lora.md",
    ),
    "row": Term(
        "One example of the data: a prompt and its answer, or a conversation. Tokenized and laid beside others it is "
        "called a document.",
        ("datasets",), "train.md", ("example", "document"),
    ),
    "rslora": Term(
        "LoRA whose update is divided by the square root of its rank instead of the rank, so that high ranks do "
        "not learn more slowly (Kalajdzievski 2023).",
        ("use_rslora", "r"), "concepts/lora.md",
    ),
    "safetensors": Term(
        "A file format for weights: a table of names and shapes, then plain numbers. Reading it runs no code, as "
        "unpickling would.",
        (), "reference/files.md",
    ),
    "schedule": Term(
        "How the learning rate changes from step to step: up to its peak during the warmup, then down, for cosine "
        "slowly at first, fast in the middle, slowly at the end.",
        ("lr_scheduler_type", "warmup_ratio", "min_learning_rate"), "concepts/learning-rate.md",
        ("cosine", "warmup", "scheduler"),
    ),
    "sandbox": Term(
        "The walls around programs that a model wrote when its answers are judged by running them: no files, no "
        "network, no other process, little memory and time. Eight attempts to get out are made at every start; `full` "
        "is the tier with all walls, `no-namespaces` and `macos` have fewer, `unsafe` none.",
        (), "evaluate.md", ("tier",),
    ),
    "seed": Term(
        "Where random numbers start. The same seed, data, versions and machine give the same run; another seed shows "
        "how much of a result is chance.",
        ("seed",), "record.md",
    ),
    "sweep": Term(
        "Many short or whole runs with other values of a few keys, compared by their loss on the same held-out rows. "
        "What does worse than half of the others is ended early.",
        ("learning_rate", "r"), "sweep.md", ("hyperparameter search", "trial"),
    ),
    "temperature": Term(
        "What logits are divided by before a token is drawn. Below 1 likely tokens become likelier; 0 is greedy.",
        ("top-p",), "use.md", ("sampling",),
    ),
    "tensorboard": Term(
        "A program that draws the numbers of a run in a browser: tensorboard --logdir checkpoints/logs.",
        ("report_to", "histogram_steps"), "watch.md",
    ),
    "token": Term(
        "A piece of text that the model reads as one number: about four letters of English, less of code. Length, "
        "memory and speed are counted in tokens.",
        ("num_tokens", "max_seq_length"), "concepts/masks.md", ("tokenizer", "vocabulary"),
    ),
    "top-p": Term(
        "Drawing the next token only from the likeliest ones, so many that their probabilities add up to p: 0.9 leaves "
        "out the unlikely tenth. Also called nucleus sampling.",
        ("temperature",), "use.md", ("nucleus sampling",),
    ),
    "underfitting": Term(
        "Loss stays high on trained and on held-out rows: too few steps, too low a learning rate, too little rank, or "
        "rows that contradict each other.",
        ("learning_rate", "r", "loss-stuck"), "concepts/loss.md", ("underfit",),
    ),
    "vram": Term(
        "The GPU's own memory. It holds weights, gradients, the optimizer's averages and the activations of a pass; "
        "what does not fit has to be made smaller, it cannot wait elsewhere.",
        ("memory_gib", "max_tokens_per_micro_batch", "load_in_4bit"), "memory.md",
        ("gpu memory", "out of memory", "oom"),
    ),
}  # fmt: skip


def find(word: str) -> str | None:
    """The name of the term that a word means, whatever its case, hyphens and plural; None: there is none."""
    names = {_plain(name): name for name in TERMS}
    for name, term in TERMS.items():
        names |= {_plain(other): name for other in term.also}
    wanted = _plain(word)
    return names.get(wanted) or names.get(wanted.removesuffix("s"))


def _plain(word: str) -> str:
    return " ".join(word.lower().replace("_", " ").replace("-", " ").split())


def glossary_markdown() -> str:
    """The page with all terms."""
    parts = ["# Glossary", "", "The same texts as `luthier explain WORD`.", ""]
    for name, term in TERMS.items():
        also = f" (also: {', '.join(term.also)})" if term.also else ""
        more = [f"`luthier explain {topic}`" for topic in term.see]
        more += [f"[{term.page}](../{term.page})"] * bool(term.page)
        parts += [f"**{name}**{also}: {term.text}", "", *([f"More: {', '.join(more)}.", ""] if more else [])]
    return "\n".join(parts).rstrip() + "\n"
