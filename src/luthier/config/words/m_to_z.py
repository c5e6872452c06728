"""The glossary from M to Z."""

from __future__ import annotations

from luthier.config.words.term import Term

M_TO_Z: dict[str, Term] = {
    "mask": Term(
        "Which tokens count. The loss mask leaves out the prompt; the attention mask keeps a token from seeing what "
        "comes after it, and packed rows from seeing each other.",
        ("completion_only_loss", "packing"), "concepts/masks.md", ("masking",),
    ),
    "merge": Term(
        "Adding the adapter into the base's weights: one plain model, no adapter to carry along. Exact up to rounding, "
        "after QLoRA too: the adapter is then added to the unpacked 4-bit values that it was trained on. Added to the "
        "base's own files (`--onto files`) it is another model, and is measured.",
        (), "export.md", ("merged",),
    ),
    "mixed precision": Term(
        "Products in 16 bits, sums in 32. Luthier keeps trained weights and the optimizer in float32 and computes "
        "in the format of `dtype`; torch calls the switch autocast.",
        ("dtype", "bf16", "fp16"), "concepts/lora.md", ("autocast", "amp"),
    ),
    "moment": Term(
        "One of the two running averages that AdamW keeps of each trained weight: of its gradient (the first) and "
        "of the gradient's square (the second).",
        ("adamw", "adam_beta1", "adam_beta2"), "concepts/learning-rate.md", ("moments",),
    ),
    "nat": Term(
        "The unit of the loss: minus the natural logarithm of a probability. 0.69 nats is a guess between two equally "
        "likely tokens, 2.3 nats one between ten.",
        ("loss", "perplexity"), "concepts/loss.md",
    ),
    "nf4": Term(
        "Normal float, 4 bits: each weight is stored as one of 16 values times the largest absolute value of its block "
        "of 64. The values are quantiles of a normal distribution, so they lie close where weights are many. They are "
        "not taken equally often: the largest weight of a block sets its scale, so most of a block lies near zero.",
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
    "pair": Term(
        "One example for DPO: a prompt with an answer that is preferred (chosen) and one that is not (rejected). It is "
        "two rows of tokens, which are always in the same pass.",
        ("objective", "datasets"), "concepts/preferences.md", ("preference pair", "chosen", "rejected"),
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
    "pre-training": Term(
        "The first stage: trillions of tokens of text, from random weights. It is where a model's knowledge comes "
        "from; fine-tuning begins with its result.",
        ("fine-tuning", "from_scratch"), "concepts/fine-tuning.md", ("pretraining",),
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
    "reference model": Term(
        "What DPO measures against: the model as the run begins. How much more probable an answer has become since "
        "then is its reward; beta says how dear it is to move away.",
        ("objective", "beta", "rewards/chosen"), "concepts/preferences.md", ("reference",),
    ),
    "residual stream": Term(
        "The numbers of a token on their way through the layers. Attention and MLP read them and add to them; "
        "nothing replaces them.",
        ("layer",), "concepts/text-to-probability.md", ("residual", "residual connection"),
    ),
    "rmsnorm": Term(
        "Divides a token's numbers by their root mean square and multiplies each by a learned factor, before "
        "attention, before the MLP and before the head, so that no layer gets numbers that have grown without "
        "bound.",
        ("layer",), "concepts/text-to-probability.md", ("norm", "layer norm", "normalization"),
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
    "sft": Term(
        "Supervised fine-tuning: rows of questions with the one answer that is wanted. It is what a run does "
        "unless `objective` says otherwise; DPO may come after it.",
        ("fine-tuning", "objective", "dpo"), "concepts/fine-tuning.md",
        ("supervised fine-tuning", "instruction tuning"),
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
    "throughput": Term(
        "How much is done in a second: in training, tokens, prompts included and padding excluded.",
        ("tokens_per_second",), "performance.md", ("speed",),
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
