"""The glossary from A to L."""

from __future__ import annotations

from luthier.config.words.term import Term

A_TO_L: dict[str, Term] = {
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
        "How a token brings in what stands earlier: its query is compared with its own key and those of all tokens "
        "before it, and it takes more of a value the better its key fits. A mask hides what comes later.",
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
    "dpo": Term(
        "Direct preference optimization: from pairs of a better and a worse answer to one prompt a model learns to "
        "give the better one more probability than the model it began as gave it, and the worse one less. No reward "
        "model and no sampling: a loss over pairs, with beta as a leash (Rafailov et al. 2023). It is one kind of "
        "preference tuning, with RLHF, ORPO and KTO, and the only one here.",
        ("objective", "beta", "label_smoothing", "rewards/margins", "pairs-by-heart"), "concepts/preferences.md",
        (
            "preference", "direct preference optimization", "preference tuning", "preference training", "rlhf", "orpo",
            "kto",
        ),
    ),
    "dropout": Term(
        "Setting a random share of numbers to zero in training, so that nothing is learned that hangs on a single one.",
        ("lora_dropout",), "concepts/lora.md",
    ),
    "early stopping": Term(
        "Ending a run when the loss on held-out rows has not become lower for some evaluations. Off unless "
        "early_stopping_patience says for how many. Without it, too, final_model holds the weights of the best "
        "evaluation, unless load_best_model_at_end is false.",
        ("early_stopping_patience", "early_stopping_threshold", "load_best_model_at_end"), "concepts/loss.md",
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
        ("finetuning_type",), "concepts/fine-tuning.md", ("finetuning",),
    ),
    "flash attention": Term(
        "Attention computed block by block, without ever storing the table of all scores: the same result up to "
        "rounding, and memory that grows with the length of a text and not with its square.",
        ("attention",), "performance.md",
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
        "below 6e-8 they are 0. So the loss is multiplied by a power of two before the backward pass, the loss scale, "
        "and the gradients are divided by it. A step that overflows is done again with half of it. Where the device "
        "has bfloat16, that is the safer one.",
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
    "gradient checkpointing": Term(
        "Forgetting what the layers computed on the way forward, and computing it again in the backward pass: far "
        "less memory, more time, the same gradient. It has nothing to do with a checkpoint on the disk.",
        ("gradient_checkpointing", "activation"), "memory.md", ("activation checkpointing", "recomputation"),
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
    "kv cache": Term(
        "Keys and values of the tokens so far, kept while an answer is written, so that each step computes the "
        "newest token only.",
        ("attention",), "concepts/text-to-probability.md", ("cache",),
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
}  # fmt: skip
