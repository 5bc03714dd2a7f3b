"""What graph reasoning is trained to: hidden facets, with doubt, and telling people apart.

Each objective is one equation on tensors in units of a stranger's standard deviation.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

NCE_TEMPERATURE = 0.1
_SMALL = 1e-6


def nats(truth: Tensor, guess: Tensor, variance: Tensor, noise: Tensor, seen: Tensor) -> Tensor:
    """½ (y − ẑ)² / (s² + σ²/n) + ½ ln(s² + σ²/n), averaged over the columns that are seen.

    The truth is a mean of n hidden interactions, and noisy by σ²/n.

    Shapes:
        all (n, n_columns), seen bool -> ()

    Source: method step 7. Deviates: the noise of the target stands in the variance, in the place
    of a weight.
    """
    total = (variance + noise).clamp(min=_SMALL)
    each = 0.5 * ((truth - guess) ** 2 / total + total.log())
    return torch.where(seen, each, 0).sum() / seen.sum().clamp(min=1)


def misdirection(truth: Tensor, guess: Tensor, seen: Tensor) -> Tensor:
    """½ (1 − cos(y, ẑ)), averaged over those of whom anything is seen.

    Shapes:
        all (n, n_columns) -> ()
    """
    cosine = functional.cosine_similarity(truth * seen, guess * seen, dim=1, eps=_SMALL)
    there = seen.any(dim=1)
    return torch.where(there, 0.5 * (1 - cosine), 0).sum() / there.sum().clamp(min=1)


def confusion(truth: Tensor, guess: Tensor, is_rival: Tensor) -> Tensor:
    """InfoNCE: each guess is to find its own hidden half among those of its rivals.

    Shapes:
        truth, guess (n, n_columns) · is_rival (n, n) bool, its diagonal is ignored -> ()

    Source: method step 7; van den Oord et al. 2018. Ours: the two halves are what was left and
    what was hidden of one user-facet.
    """
    cosine = functional.normalize(guess, dim=1) @ functional.normalize(truth, dim=1).T
    itself = torch.eye(len(truth), dtype=torch.bool, device=truth.device)
    logits = (cosine / NCE_TEMPERATURE).masked_fill(~(is_rival | itself), -torch.inf)
    has_rivals = (is_rival & ~itself).any(dim=1)
    each = logits.logsumexp(dim=1) - logits.diagonal()
    return torch.where(has_rivals, each, 0).sum() / has_rivals.sum().clamp(min=1)
