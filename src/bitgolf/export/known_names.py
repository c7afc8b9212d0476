"""Names of decorators, errors, functions and modules whose meaning the removal of code relies on."""

from __future__ import annotations

SILENT_DECORATORS = frozenset(
    [
        "property",
        "cached_property",
        "staticmethod",
        "classmethod",
        "cache",
        "lru_cache",
        "contextmanager",
        "register",
        "setter",
        "no_grad",
        "inference_mode",
        "wraps",
        "total_ordering",
        "abstractmethod",
        "override",
        "short_form_of",
    ]
)
"""Decorators, by the last part of their names, that read no annotations."""
UNUSED_DECORATORS = frozenset(["override", "short_form_of", "abstractmethod"])
UNUSED_BASES = frozenset(["ABC", "Generic"])
"""Classes that a script derives nothing from: it checks no abstract methods and no types."""
GENERIC_CONSTRUCTORS = frozenset(
    ["dict", "list", "set", "tuple", "frozenset", "defaultdict", "deque", "Counter", "OrderedDict"]
)
"""Classes whose type arguments change nothing when they are called."""

ERRORS = frozenset(
    [
        "BitgolfError",
        "UsageError",
        "RecipeError",
        "CorruptFileError",
        "Unsupported",
        "FormatVersionError",
        "OutOfRangeError",
        "TypeError",
        "ValueError",
        "RuntimeError",
        "NotImplementedError",
        "AssertionError",
        "AttributeError",
    ]
)
"""Exceptions that can be made with an empty message."""
CHECKS = frozenset(
    [
        "BitgolfError",
        "UsageError",
        "RecipeError",
        "CorruptFileError",
        "FormatVersionError",
        "OutOfRangeError",
        "Diverged",
    ]
)
"""Errors of the package that tell a user what is wrong. No part of a script depends on them."""
SHOWN_ONLY = frozenset(["detail", "progress", "end_progress"])
"""Methods of a log that show something and record nothing that a script keeps."""
PURE_CALLS = frozenset(
    [
        *("len", "str", "repr", "sorted", "map", "join", "list", "max", "min", "round", "format", "removeprefix"),
        *(
            "removesuffix",
            "isinstance",
            "issubclass",
            "type",
            "any",
            "all",
            "sum",
            "set",
            "dict",
            "tuple",
            "abs",
            "int",
        ),
        *("float", "bool", "range", "zip", "enumerate", "hasattr", "getattr", "callable", "startswith", "endswith"),
        *("keys", "values", "items", "get", "isdisjoint", "issubset", "is_floating_point", "numel", "dim", "isfinite"),
        *(
            "isnan",
            "crc32",
            "device_count",
            "parameters",
            "named_parameters",
            "modules",
            "item",
            "exists",
            "is_file",
            "is_dir",
            "is_available",
            "bit_length",
            "isdecimal",
            "lower",
            "upper",
            "recipe",
        ),
    ]
)
"""Functions and methods, by the last part of their names, that have no effect."""
KEPT_WHOLE = frozenset(["bitgolf.pipeline.script_program"])
"""Modules that keep their checks and messages: the program itself, which speaks to the user of a script."""
