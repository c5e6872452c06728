r"""What the loss of a pass is a sum over: trained tokens (`sft`), or pairs of answers (`dpo`).

    sft   loss = mean over trained tokens of -log p(token)

    dpo   reward(answer) = beta (log p(answer) - log p_0(answer))         p_0: the model as it was before step 1
          margin = reward(chosen) - reward(rejected)
          loss   = mean over pairs of -(1 - s) log sigmoid(margin) - s log sigmoid(-margin)      s: label_smoothing

    d loss / d log p(chosen) = -beta sigmoid(-margin) = - d loss / d log p(rejected)             where s = 0

So a step of `dpo` is one of `sft` whose tokens count by their pair: those of chosen answers for, those of rejected ones
against, and all of them less the better the pair is told apart already. Before step 1 every margin is 0 and the loss
log 2 = 0.693.

The log-probability of an answer is the sum over its trained tokens; a longer answer has a lower one, which p_0 takes
off again. Sums over tokens, rewards and margins are computed in float64: they are small differences of large numbers.

Source: Rafailov et al. 2023 (arXiv 2305.18290), equation 7; label smoothing: Mitchell 2023, "A note on DPO with noisy
preferences & relationship to IPO". Not covered: other losses on pairs (IPO, ORPO, SimPO, KTO).

Shape letters: N trained tokens, R rows, P pairs (R = 2 P: chosen, rejected, chosen, ...), K sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from luthier.config.plan import Plan
from luthier.config.schema import DpoSection
from luthier.data.collate import MicroBatch
from luthier.model.forward import summed_loss, token_losses

SUMS = {"sft": 1, "dpo": 4}
"""How many sums a pass has: the loss; of `dpo` also the rewards of chosen and of rejected answers, and the pairs whose
chosen answer has the higher one."""


@dataclass(frozen=True)
class Counted:
    """What a step or an evaluation went over, on all ranks.

    Attributes:
        losses: What its loss is a mean over: trained tokens, or pairs.
        trained_tokens: Tokens of answers.
        tokens: All of them.
    """

    losses: int
    trained_tokens: int
    tokens: int


def counts(batches: Iterable[MicroBatch]) -> tuple[int, int, int]:
    """The fields of `Counted`, of these passes alone."""
    each = [(batch.num_losses, batch.num_trained, batch.num_tokens) for batch in batches]
    losses, trained, tokens = (sum(column) for column in zip(*each, strict=True)) if each else (0, 0, 0)
    return losses, trained, tokens


def sums(model: nn.Module, batch: MicroBatch, plan: Plan, reference_P2: Tensor | None) -> Tensor:
    """The sums (K,) of a pass; the first one, the loss, is differentiable.

    Args:
        model: In the format that the plan computes in.
        batch: On the model's device.
        plan: Which objective it is.
        reference_P2: `answer_losses` of all pairs of the selection by the model before step 1; None: all 0, where the
            numbers are not looked at.
    """
    if not plan.pairs:
        return summed_loss(model, batch)[None]
    loss_R = answer_losses(model, batch)
    known_P2 = torch.zeros(len(batch.pairs), 2) if reference_P2 is None else reference_P2[list(batch.pairs)]
    return dpo(loss_R, known_P2.flatten().to(loss_R), plan.config.dpo)


def dpo(loss_R: Tensor, reference_R: Tensor, settings: DpoSection) -> Tensor:
    """Sums (4,) over pairs: the loss, the rewards of chosen and of rejected answers, and how often chosen ones win.

    Args:
        loss_R: Negative log-likelihood of each answer (nats), chosen and rejected ones in turns.
        reference_R: The same by the model before step 1.
        settings: `beta` and `label_smoothing`.
    """
    reward_P2 = settings.beta * (reference_R - loss_R).view(-1, 2)
    margin_P = reward_P2[:, 0] - reward_P2[:, 1]
    smoothing = settings.label_smoothing
    loss = -((1 - smoothing) * logsigmoid(margin_P) + smoothing * logsigmoid(-margin_P)).sum()
    return torch.stack([loss, *reward_P2.detach().sum(dim=0), (margin_P > 0).sum().to(loss)])


def answer_losses(model: nn.Module, batch: MicroBatch) -> Tensor:
    """Negative log-likelihood (R,) of each answer of a pass of pairs, in nats."""
    loss_N = token_losses(model, batch)
    assert batch.row_of_N is not None
    wide = widest(loss_N.device)
    return loss_N.new_zeros(2 * len(batch.pairs), dtype=wide).index_add(0, batch.row_of_N, loss_N.to(wide))


def widest(device: torch.device) -> torch.dtype:
    """What sums are added up in: float64, which mps has not."""
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass(frozen=True)
class Rewards:
    """Means over pairs. `margin` is chosen less rejected, `accuracy` the share of pairs with a margin above 0."""

    chosen: float
    rejected: float
    accuracy: float

    @property
    def margin(self) -> float:
        """How much better the chosen answers are than the rejected ones."""
        return self.chosen - self.rejected


def rewards(summed: Sequence[float], pairs: int) -> Rewards | None:
    """The means of sums as `dpo` gives them; None for those of `sft`, and without pairs."""
    if len(summed) < SUMS["dpo"] or not pairs:
        return None
    return Rewards(*(each / pairs for each in summed[1:]))
