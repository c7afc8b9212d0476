"""Check of a whole recipe before any work: everything that can be built without data is built."""

from __future__ import annotations

import torch

from bitgolf.config.build_context import BuildContext
from bitgolf.config.locate import constructor_errors_at
from bitgolf.config.registry import REGISTRY
from bitgolf.config.requirements import REGISTER, requirements
from bitgolf.config.spec import Spec, count_context_arguments
from bitgolf.errors import RecipeError
from bitgolf.optim.optimizer import Optimizer
from bitgolf.recipes.recipe import Recipe
from bitgolf.training.loss_module import LossModule


def check_recipe(recipe: Spec[Recipe]) -> None:
    """Raise `RecipeError` with the path in the recipe if a part cannot be built, or parts do not fit each other.

    Ranges of single settings were checked when the nodes were made. Here constructors check settings that depend on
    each other; model, objective and optimizer are built on the meta device, which takes no memory for weights.
    """
    with constructor_errors_at(recipe):
        for _, node in reversed(list(recipe.walk())):  # inner nodes first: their paths are the most exact
            if count_context_arguments(node.cls) == 0:
                node()
        settings = recipe()
        context = BuildContext(vocab=settings.tokens().vocab)
        train = settings.train()
        with torch.device("meta"):
            model = settings.model(context)
            objective = train.objective(context._replace(dim=settings.model["dim"]))
            task = LossModule(model, objective)
            Optimizer(task.parameters_by_path(), task.roles(), train.optim)
    _check_names(recipe)
    if train.validation and train.validation.weights == "averaged" and settings.average is None:
        message = "validation scores the averaged weights, but the recipe has no average"
        raise RecipeError(message, where="train.validation.weights", hint="use weights=trained, or set `average`")


def _check_names(recipe: Spec[Recipe]) -> None:
    """Raise `RecipeError` unless other processes find all parts of the recipe by their names."""
    for path, node in recipe.walk():
        if REGISTRY.get(node.name) is not node.cls:
            message = f"the class {node.name} is not registered, so no file can name it"
            raise RecipeError(message, where=path, hint=REGISTER)
    requirements(recipe.to_json())
