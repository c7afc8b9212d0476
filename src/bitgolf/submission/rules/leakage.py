"""Rules on code that learns from what it is scored on: validation text before the artifact, targets inside keys."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from bitgolf.submission.finding import Found, Record, RecordRule
from bitgolf.submission.source import FunctionNode, Source, dotted

VALIDATION = re.compile(r"(?:h\.|args\.|val_data\.)?val(?:idation)?_(?:tokens|data|files|loader|tok|x|ids)|val_data")
CALIBRATES = re.compile(r"hessian|calib", re.IGNORECASE)
FREEZES = re.compile(r"^(?:serialize|save_artifact|quantize_and_save|export_model|pack_model)", re.IGNORECASE)
TARGET = re.compile(
    r"^(?:tgt|targets?|tgts|y|ys|y_np|next_tok(?:en)?s?|actual)(?:_np|_ids|_u?int64|\d*)?$", re.IGNORECASE
)


def calibrates_on_validation(record: Record) -> Found:
    """Calibration is called with the validation tokens."""
    for script in record.folder.code:
        for name, call in script.calls:
            if CALIBRATES.search(name.split(".")[-1]) and (argument := _validation_argument(call)):
                evidence = f"{name} is given {argument}, so what it calibrates is fitted to the text that is scored."
                yield script.name, call.lineno, evidence


def trains_on_validation(record: Record) -> Found:
    """A function that updates weights is called with validation tokens before the artifact is made."""
    for script in record.folder.code:
        learning = {function.name: function for function in script.functions if _learns(script, function)}
        for function in script.functions:
            frozen = _freezing_line(script, function)
            for call in _calls(script, function) if frozen else ():
                learner = learning.get(dotted(call.func))
                argument = _validation_argument(call)
                if learner and argument and call.lineno < frozen and _reads_tokens(script, learner):
                    evidence = (
                        f"{learner.name} updates weights on {argument} before the artifact is made (line {frozen})."
                    )
                    yield script.name, call.lineno, evidence


def target_in_key(record: Record) -> Found:
    """A table is looked up with a key that was computed from the target that is being predicted."""
    for script in record.folder.code:
        for function in script.functions:
            keys = dict(_keys_with_targets(script, function))
            for node in script.inside(function) if keys else ():
                if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
                    key = node.slice.id if isinstance(node.slice, ast.Name) else ""
                    if key in keys and not _is_target_name(dotted(node.value)):
                        evidence = (
                            f"{key} is computed from the target and used as the key of a lookup (line {node.lineno}): "
                            "what is read depends on the token that is predicted."
                        )
                        yield script.name, keys.pop(key), evidence


def _keys_with_targets(script: Source, function: FunctionNode) -> Iterator[tuple[str, int]]:
    """Yield the names that are assigned a hash of a target, with the line: a product or XOR, then a mask or modulus."""
    for node in script.inside(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            inside = script.inside(node.value)
            operators = {type(n.op) for n in inside if isinstance(n, ast.BinOp)}
            mixes, reduces = operators & {ast.BitXor, ast.Mult}, operators & {ast.BitAnd, ast.Mod}
            if mixes and reduces and any(isinstance(n, ast.Name) and _is_target_name(n.id) for n in inside):
                yield node.targets[0].id, node.lineno


def _is_target_name(name: str) -> bool:
    return bool(TARGET.match(name))


def _validation_argument(call: ast.Call) -> str:
    """Return the argument of a call that is validation text, by its name, "" if there is none."""
    arguments = (*call.args, *(keyword.value for keyword in call.keywords))
    return next((name for a in arguments if (name := dotted(a)) and VALIDATION.fullmatch(name)), "")


def _reads_tokens(script: Source, function: FunctionNode) -> bool:
    """Whether a function itself cuts batches from validation tokens, instead of passing them on to an evaluation."""
    subscripts = (node for node in script.inside(function) if isinstance(node, ast.Subscript))
    return any(VALIDATION.fullmatch(dotted(node.value)) for node in subscripts)


def _learns(script: Source, function: FunctionNode) -> bool:
    """Whether a function computes gradients and makes optimizer steps."""
    called = [dotted(call.func) for call in _calls(script, function)]
    return any(name.endswith(".backward") for name in called) and any(name.endswith(".step") for name in called)


def _freezing_line(script: Source, function: FunctionNode) -> int:
    """Return the line of a function at which it writes the artifact, 0 if it does not."""
    called = _calls(script, function)
    return min((call.lineno for call in called if FREEZES.match(dotted(call.func))), default=0)


def _calls(script: Source, function: FunctionNode) -> Iterator[ast.Call]:
    return (node for node in script.inside(function) if isinstance(node, ast.Call))


RULES = (
    RecordRule("calibrates-on-validation", "warning", calibrates_on_validation),
    RecordRule("trains-on-validation", "warning", trains_on_validation),
    RecordRule("target-in-key", "warning", target_in_key),
)
