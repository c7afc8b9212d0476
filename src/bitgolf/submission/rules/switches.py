"""Rules on switches that are turned on during training, after the model was compiled."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from bitgolf.submission.finding import Found, Record, RecordRule
from bitgolf.submission.source import FunctionNode, Source, dotted

COMPILES, RECOMPILES = ("torch.compile",), ("torch._dynamo.reset", "torch.compiler.reset")
FORWARDS = ("forward", "__call__")


def late_switch(record: Record) -> Found:
    """A function compiles a model and later assigns a class attribute that its forward reads, without compiling again."""
    for script in record.folder.code:
        switches = dict(_class_switches(script))
        for function in script.functions if switches else ():
            calls = [node for node in script.inside(function) if isinstance(node, ast.Call)]
            compiled = [call.lineno for call in calls if _compiles_model(call)]
            again = [*compiled, *(call.lineno for call in calls if dotted(call.func) in RECOMPILES)]
            for owner, name, line in _assignments(script, function):
                read = switches.get((owner, name))
                if read and any(other < line for other in compiled) and not any(line < other for other in again):
                    evidence = (
                        f"{owner}.{name} is assigned here, after the model was compiled (line {min(compiled)}); forward "
                        f"reads it (line {read}) while it is traced, and some versions of PyTorch never read it again."
                    )
                    yield script.name, line, evidence


def _compiles_model(call: ast.Call) -> bool:
    """Whether a call compiles a model, by the name of what is compiled."""
    return dotted(call.func) in COMPILES and bool(call.args) and "model" in dotted(call.args[0]).lower()


def _class_switches(script: Source) -> Iterator[tuple[tuple[str, str], int]]:
    """Yield (class, attribute) of boolean class attributes that a `forward` reads through the class, and that line."""
    for node in script.all(ast.ClassDef):
        booleans = {name for statement in node.body if (name := _boolean_name(statement))}
        for function in node.body:
            if isinstance(function, FunctionNode) and function.name in FORWARDS:
                for child in script.inside(function):
                    if isinstance(child, ast.Attribute) and child.attr in booleans and dotted(child.value) == node.name:
                        yield (node.name, child.attr), child.lineno


def _boolean_name(statement: ast.stmt) -> str:
    target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
    value = getattr(statement, "value", None)
    boolean = isinstance(value, ast.Constant) and isinstance(value.value, bool)
    return target.id if boolean and isinstance(target, ast.Name) else ""


def _assignments(script: Source, function: FunctionNode) -> Iterator[tuple[str, str, int]]:
    """Yield name, attribute and line of each `Class.attribute = True`."""
    for node in script.inside(function):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and node.value.value is True:
            for target in node.targets:
                if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
                    yield target.value.id, target.attr, node.lineno


RULES = (RecordRule("late-switch", "warning", late_switch),)
