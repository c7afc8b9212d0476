"""The model and its objective as one module: token ids and targets in, the loss out."""

from __future__ import annotations

from torch import Tensor, nn

from bitgolf.model.head import LogitsFunction
from bitgolf.model.interfaces import Objective
from bitgolf.model.lm import LM
from bitgolf.model.parameters import parameter_roles


class LossModule(nn.Module):
    """(ids, targets), int64 (B, T) each -> mean loss in nats per token, a scalar. Compiled as one graph."""

    def __init__(self, model: LM, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def parameters_by_path(self) -> dict[str, nn.Parameter]:
        """Path, as rules match it -> parameter. Parameters of the objective have paths under `objective.`."""
        return {_path(name): p for name, p in self.named_parameters()}

    def roles(self) -> dict[str, str]:
        """Path -> role of the parameter."""
        return {_path(name): role for name, role in parameter_roles(self).items()}

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        logits = LogitsFunction(self.model.head, self.model.embed)
        return self.objective(self.model.hidden(self.model.forward_context(ids)), targets, logits)


def _path(name: str) -> str:
    return name.removeprefix("model.")
