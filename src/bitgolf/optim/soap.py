"""SOAP before Muon's orthogonalization: Adam's scaling in the eigenbasis of Shampoo's preconditioner."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.config.ranges import Count, Epsilon, FractionBelowOne
from bitgolf.config.registry import register
from bitgolf.errors import BitgolfError
from bitgolf.optim.muon_transforms import PreOrthogonalization, TransformState


@register
class SOAP(PreOrthogonalization):
    """SOAP-Muon: X -> L (L^T X R / (sqrt(V) + eps)) R^T, rescaled to the Frobenius norm of X.

    L (m, m) and R (n, n) are eigenvectors of running means of G G^T and G^T G over the gradients G of earlier steps, and
    V (m, n) is the running mean of (L^T X R)^2. All three means have the decay `beta`. The first update is X itself,
    because there is no earlier gradient; the first gradient sets L and R by an eigendecomposition. After each
    `refresh_interval`-th step, one step of orthogonal iteration (a QR decomposition) updates them.
    eps: the default is 1e-8 of the published scripts, whose gradients are sums over 524,288 tokens, for the means of
    this trainer.
    The state has 2 m^2 + 2 n^2 + m n + 1 numbers for a matrix, in float32; a step multiplies matrices of these sizes,
    in float32. Sources: SOAP (Vyas et al., arXiv 2409.11321); KellerJordan/modded-nanogpt, track 3: pull request 278
    for MLP matrices with refresh_interval=10 (3,150 steps), and 321 for all hidden matrices with the defaults (2,750
    steps). There, a gate that compares the preconditioned update of the attention's output matrix with the plain one
    may reduce it, which is not implemented here.
    """

    def __init__(
        self, *, beta: FractionBelowOne = 0.9, eps: Epsilon = 1e-8 / 524_288, refresh_interval: Count = 1
    ) -> None:
        self.beta, self.eps, self.refresh_interval = beta, eps, refresh_interval

    def init_state(self, param: Tensor) -> TransformState:
        m, n = param.shape[-2:]
        lead = param.shape[:-2]
        return {
            "row_moment": param.new_zeros(*lead, m, m, dtype=torch.float32),
            "column_moment": param.new_zeros(*lead, n, n, dtype=torch.float32),
            "row_basis": _identities(param, m),
            "column_basis": _identities(param, n),
            "second_moment": param.new_zeros(param.shape, dtype=torch.float32),
            "observed": param.new_zeros(*lead, 1, 1, dtype=torch.float32),  # number of gradients
        }

    def __call__(self, x: Tensor, state: TransformState) -> Tensor:
        left, right, second_moment = state["row_basis"], state["column_basis"], state["second_moment"]
        has_basis = state["observed"] > 0
        rotated = left.mT @ x.float() @ right
        second_moment.lerp_(rotated.square(), (1.0 - self.beta) * has_basis)
        scaled = left @ (rotated / (second_moment.sqrt() + self.eps)) @ right.mT
        scaled = scaled * (_norm(x) / _norm(scaled).clamp_min(1e-30))
        return torch.where(has_basis, scaled.to(x.dtype), x)

    @torch.no_grad()
    def observe(self, grads: Tensor, state: TransformState, step: int) -> None:
        grads = grads.float()
        state["row_moment"].lerp_(grads @ grads.mT, 1.0 - self.beta)
        state["column_moment"].lerp_(grads.mT @ grads, 1.0 - self.beta)
        state["observed"].add_(1.0)
        if step == 0:
            state["row_basis"].copy_(_eigenvectors(state["row_moment"]))
            state["column_basis"].copy_(_eigenvectors(state["column_moment"]))
        elif step % self.refresh_interval == 0:
            self._refresh(state)

    def _refresh(self, state: TransformState) -> None:
        """One step of orthogonal iteration for both bases, whose columns are sorted by their Rayleigh quotients."""
        second_moment = state["second_moment"]
        for moment, basis, dim in (("row_moment", "row_basis", -2), ("column_moment", "column_basis", -1)):
            product = state[moment] @ state[basis]
            order = (state[basis] * product).sum(-2).argsort(dim=-1, descending=True, stable=True)
            second_moment.copy_(second_moment.take_along_dim(order.unsqueeze(-3 - dim), dim))
            state[basis].copy_(torch.linalg.qr(product.take_along_dim(order.unsqueeze(-2), -1)).Q)


def _identities(param: Tensor, size: int) -> Tensor:
    """One identity matrix (size, size) for each matrix of a parameter."""
    identity = torch.eye(size, dtype=torch.float32, device=param.device)
    return identity.expand(*param.shape[:-2], size, size).clone()


def _eigenvectors(moment: Tensor) -> Tensor:
    """Eigenvectors of symmetric matrices (..., k, k) as columns, by decreasing eigenvalue."""
    try:
        return torch.linalg.eigh(moment).eigenvectors.flip(-1)
    except torch.linalg.LinAlgError as error:
        raise BitgolfError(
            "a gradient of the first step is not finite, or its eigendecomposition failed",
            where="SOAP",
            hint="lower the learning rates or set train.grad_clip; check the data",
        ) from error


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(x.float(), keepdim=True)
