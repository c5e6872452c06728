"""The papers behind what a run uses: which value of which key stands for a method, and where it was published.

Not covered: the base model, rows and tasks, whose pages say how they are cited; the statistics of a comparison.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from luthier.config.plan import Plan
from luthier.config.render import plan_as_dict

SOME = "more than 0"
"""Stands for any positive number."""


@dataclass(frozen=True)
class Reference:
    """One paper.

    Attributes:
        key: Of the BibTeX entry.
        authors: In BibTeX's form, joined by `and`.
        where: Field and name of the place: ``booktitle = {...}`` for a conference, ``journal = {...}`` else.
        arxiv: Its number there.
        more: Further fields of the entry.
    """

    key: str
    authors: str
    title: str
    year: int
    where: str
    arxiv: str = ""
    more: str = ""

    @property
    def short(self) -> str:
        """`Hu et al. 2022`, `Loshchilov and Hutter 2019`."""
        names = [name.partition(",")[0] for name in self.authors.split(" and ")]
        who = " and ".join(names) if len(names) <= 2 else f"{names[0]} et al."
        return f"{who} {self.year}"

    @property
    def bibtex(self) -> str:
        """The entry."""
        kind = "inproceedings" if self.where.startswith("booktitle") else "article"
        lines = [f"author = {{{self.authors}}}", f"title = {{{self.title}}}", self.where, f"year = {{{self.year}}}"]
        lines += [self.more] * bool(self.more)
        lines += [f"eprint = {{{self.arxiv}}}", "archiveprefix = {arXiv}"] * bool(self.arxiv)
        return f"@{kind}{{{self.key},\n" + "".join(f"  {line},\n" for line in lines) + "}"


def _preprint(number: str) -> str:
    return f"journal = {{arXiv preprint arXiv:{number}}}"


_ICLR = "booktitle = {International Conference on Learning Representations}"
_LORA = Reference(
    "hu2022lora",
    "Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and Li, Yuanzhi and Wang, Shean and "
    "Wang, Lu and Chen, Weizhu",
    "{LoRA}: Low-Rank Adaptation of Large Language Models", 2022, _ICLR, "2106.09685",
)  # fmt: skip
_RSLORA = Reference(
    "kalajdzievski2023rslora", "Kalajdzievski, Damjan",
    "A Rank Stabilization Scaling Factor for Fine-Tuning with {LoRA}", 2023, _preprint("2312.03732"), "2312.03732",
)  # fmt: skip
_DORA = Reference(
    "liu2024dora",
    "Liu, Shih-Yang and Wang, Chien-Yi and Yin, Hongxu and Molchanov, Pavlo and Wang, Yu-Chiang Frank and "
    "Cheng, Kwang-Ting and Chen, Min-Hung",
    "{DoRA}: Weight-Decomposed Low-Rank Adaptation", 2024,
    "booktitle = {Proceedings of the 41st International Conference on Machine Learning}", "2402.09353",
    "volume = {235}, series = {Proceedings of Machine Learning Research}, pages = {32100--32121}",
)  # fmt: skip
_PISSA = Reference(
    "meng2024pissa", "Meng, Fanxu and Wang, Zhaohui and Zhang, Muhan",
    "{PiSSA}: Principal Singular Values and Singular Vectors Adaptation of Large Language Models", 2024,
    _preprint("2404.02948"), "2404.02948",
)  # fmt: skip
_QLORA = Reference(
    "dettmers2023qlora", "Dettmers, Tim and Pagnoni, Artidoro and Holtzman, Ari and Zettlemoyer, Luke",
    "{QLoRA}: Efficient Finetuning of Quantized {LLMs}", 2023,
    "booktitle = {Advances in Neural Information Processing Systems}", "2305.14314",
    "volume = {36}, pages = {10088--10115}",
)  # fmt: skip
_FP8 = Reference(
    "micikevicius2022fp8",
    "Micikevicius, Paulius and Stosic, Dusan and Burgess, Neil and Cornea, Marius and others",
    "{FP8} Formats for Deep Learning", 2022, _preprint("2209.05433"), "2209.05433",
)  # fmt: skip
_ADAMW = Reference(
    "loshchilov2019adamw", "Loshchilov, Ilya and Hutter, Frank", "Decoupled Weight Decay Regularization", 2019, _ICLR,
    "1711.05101",
)  # fmt: skip
_EIGHT_BITS = Reference(
    "dettmers2022optimizers", "Dettmers, Tim and Lewis, Mike and Shleifer, Sam and Zettlemoyer, Luke",
    "8-bit Optimizers via Block-wise Quantization", 2022, _ICLR, "2110.02861",
)  # fmt: skip
_CLIPPING = Reference(
    "pascanu2013difficulty", "Pascanu, Razvan and Mikolov, Tomas and Bengio, Yoshua",
    "On the Difficulty of Training Recurrent Neural Networks", 2013,
    "booktitle = {Proceedings of the 30th International Conference on Machine Learning}", "1211.5063",
    "pages = {1310--1318}",
)  # fmt: skip
_COSINE = Reference(
    "loshchilov2017sgdr", "Loshchilov, Ilya and Hutter, Frank",
    "{SGDR}: Stochastic Gradient Descent with Warm Restarts", 2017, _ICLR, "1608.03983",
)  # fmt: skip
_WSD = Reference(
    "hu2024minicpm",
    "Hu, Shengding and Tu, Yuge and Han, Xu and He, Chaoqun and Cui, Ganqu and Long, Xiang and Zheng, Zhi and "
    "Fang, Yewei and Huang, Yuxiang and Zhao, Weilin and others",
    "{MiniCPM}: Unveiling the Potential of Small Language Models with Scalable Training Strategies", 2024,
    _preprint("2404.06395"), "2404.06395",
)  # fmt: skip
_CHECKPOINTING = Reference(
    "chen2016sublinear", "Chen, Tianqi and Xu, Bing and Zhang, Chiyuan and Guestrin, Carlos",
    "Training Deep Nets with Sublinear Memory Cost", 2016, _preprint("1604.06174"), "1604.06174",
)  # fmt: skip
_FSDP = Reference(
    "zhao2023fsdp",
    "Zhao, Yanli and Gu, Andrew and Varma, Rohan and Luo, Liang and Huang, Chien-Chin and Xu, Min and Wright, Less "
    "and Shojanazeri, Hamid and Ott, Myle and Shleifer, Sam and Desmaison, Alban and Balioglu, Can and "
    "Damania, Pritam and Nguyen, Bernard and Chauhan, Geeta and Hao, Yuchen and Mathews, Ajit and Li, Shen",
    "{PyTorch} {FSDP}: Experiences on Scaling Fully Sharded Data Parallel", 2023,
    "journal = {Proceedings of the VLDB Endowment}", "2304.11277", "volume = {16}, number = {12}, pages = {3848--3860}",
)  # fmt: skip

_DPO = Reference(
    "rafailov2023dpo",
    "Rafailov, Rafael and Sharma, Archit and Mitchell, Eric and Ermon, Stefano and Manning, Christopher D. and "
    "Finn, Chelsea",
    "Direct Preference Optimization: Your Language Model is Secretly a Reward Model", 2023,
    "booktitle = {Advances in Neural Information Processing Systems}", "2305.18290",
    "volume = {36}, pages = {53728--53741}",
)  # fmt: skip

METHODS: dict[tuple[str, object], tuple[str, Reference]] = {
    ("training.objective", "dpo"): ("DPO", _DPO),
    ("training.finetuning_type", "lora"): ("LoRA", _LORA),
    ("lora.use_rslora", True): ("rsLoRA", _RSLORA),
    ("lora.use_dora", True): ("DoRA", _DORA),
    ("lora.init_lora_weights", "pissa"): ("PiSSA", _PISSA),
    ("quantization.load_in_4bit", True): ("QLoRA", _QLORA),
    ("quantization.base_precision", "fp8"): ("8-bit floats", _FP8),
    ("training.optim", "adamw_torch"): ("AdamW", _ADAMW),
    ("training.optim", "adamw_torch_fused"): ("AdamW", _ADAMW),
    ("training.optim", "paged_adamw_8bit"): ("8-bit AdamW", _EIGHT_BITS),
    ("training.max_grad_norm", SOME): ("gradient clipping", _CLIPPING),
    ("training.lr_scheduler_type", "cosine"): ("cosine schedule", _COSINE),
    ("training.lr_scheduler_type", "wsd"): ("warmup-stable-decay", _WSD),
    ("plan.checkpointed_layers", SOME): ("gradient checkpointing", _CHECKPOINTING),
    ("training.fsdp", True): ("FSDP", _FSDP),
}
"""Key of the plan and its value -> what it is, and the paper to cite for it."""


def methods(plan: Plan) -> list[tuple[str, str, Reference]]:
    """What a run uses of `METHODS`: (what it is, key and value, paper), in their order."""
    values = plan_as_dict(plan)
    full = values["training.finetuning_type"] == "full"
    used = []
    for (key, wanted), (name, reference) in METHODS.items():
        value = values.get(key)
        matches = isinstance(value, int | float) and value > 0 if wanted == SOME else value == wanted
        if matches and not (full and key.startswith("lora.")):
            said = f"{value:g}" if wanted == SOME else str(value).lower()
            used.append((name, f"{key.rpartition('.')[2]}: {said}", reference))
    return used


def citations(plan: Plan, width: int) -> str:
    """The methods of a run, and a BibTeX entry for each; what is outside of the entries BibTeX passes over."""
    used = methods(plan)
    widest = max(len(name) for name, _, _ in used)
    lines = ["Methods to cite", ""]
    lines += [f"  {name:<{widest}}  {reference.short:<26}  {key}" for name, key, reference in used]
    rest = "Cite the base model, the rows and the tasks, too: their pages on the hub say how."
    entries = dict.fromkeys(reference for _, _, reference in used)
    return "\n\n".join(("\n".join(lines), textwrap.fill(rest, width), *(entry.bibtex for entry in entries)))
