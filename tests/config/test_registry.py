"""Tests of the registry: names of parts are unique, and looking one up imports only the module of that part."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.config.parse import from_json
from bitgolf.config.registry import REGISTRY, find_parts, import_all_parts, lookup, part_modules, register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.mlp import SquaredLeakyReLU


def test_the_source_names_exactly_what_registers_itself() -> None:
    registered = {name: cls.__module__ for name, cls in import_all_parts().items()}
    own = {name: module for name, module in registered.items() if module.startswith("bitgolf.")}
    assert own == part_modules() and len(own) > 150


def test_every_part_is_found_by_its_name_alone() -> None:
    for name, cls in import_all_parts().items():
        assert lookup(name) is cls and cls.__name__ == name


def test_only_the_module_of_a_part_is_imported() -> None:
    program = (
        "import sys; from bitgolf.config.registry import lookup; lookup('Zlib'); "
        "print([m for m in sys.modules if m.startswith('bitgolf.') and m.split('.')[1] not in ('config', 'pack')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(eval(done.stdout)) <= {"bitgolf.errors", "bitgolf.files", "bitgolf.runtime", "bitgolf.runtime.compat"}


def test_a_second_class_of_one_name_is_an_error_that_names_both_modules() -> None:
    class SquaredLeakyReLU:
        pass

    with pytest.raises(TypeError, match=rf"SquaredLeakyReLU: one in bitgolf\.model\.mlp, one in {__name__}"):
        register(SquaredLeakyReLU)
    assert REGISTRY["SquaredLeakyReLU"].__module__ == "bitgolf.model.mlp"


def test_a_module_that_is_imported_again_may_register_again() -> None:
    assert register(SquaredLeakyReLU) is SquaredLeakyReLU


def test_two_modules_of_one_name_are_an_error_before_anything_is_imported() -> None:
    source = "@register\nclass Twice(Part):\n    pass\n"
    with pytest.raises(TypeError, match=r"Twice: one in a\.b, one in a\.c"):
        find_parts({"a.b": source, "a.c": source})


names = st.sampled_from(["Alpha", "Beta", "BetaPrime", "Gamma2", "_Delta", "x"])


@given(st.dictionaries(names, st.tuples(st.booleans(), st.booleans())))
def test_registered_classes_are_found_and_no_others(classes: dict[str, tuple[bool, bool]]) -> None:
    lines = []
    for name, (registered, decorated) in classes.items():
        lines += ["@register"] * registered + ["@dataclass(frozen=True)"] * decorated
        lines += [f"class {name}(Part):", f"    inner = '@register class {name}x'", ""]
    expected = {name for name, (registered, _) in classes.items() if registered}
    assert find_parts({"m": "\n".join(lines)}) == dict.fromkeys(expected, "m")


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "system",
        "cli.app",
        "Nothing",
        "files.atomic_write",
        "../x.Y",
        "a" * 500,
        "LoadedArtifact",
        "__getattr__",
        "",
        3,
    ],
)
def test_only_registered_classes_have_names(name: object) -> None:
    with pytest.raises(RecipeError):
        lookup(name)


@pytest.mark.parametrize("name", ["model.mlp.SquaredLeakyReLU", "quantize.codecs.codec.Float", "cli.runs.Gone"])
def test_a_name_of_the_older_format_says_so(name: str) -> None:
    with pytest.raises(RecipeError, match="older format") as error:
        from_json({"part": name})
    assert error.value.hint.endswith(f"replace the name by {name.rpartition('.')[2]}")


def test_an_unknown_name_brings_the_nearest() -> None:
    with pytest.raises(RecipeError, match="no part called 'SquaredLeakyRelu'") as error:
        lookup("SquaredLeakyRelu")
    assert "SquaredLeakyReLU" in error.value.hint


@given(st.text(max_size=20) | st.sampled_from(sorted(part_modules())))
def test_any_name_is_a_part_or_one_clear_error_and_imports_only_modules_of_parts(name: str) -> None:
    before = set(sys.modules)
    try:
        found = lookup(name)
    except RecipeError:
        assert set(sys.modules) == before
        return
    assert found.__name__ == name


def test_a_part_of_another_module_keeps_the_hash() -> None:
    """Moving a part to another module does not change recipes."""
    node = part(SquaredLeakyReLU)
    assert node.to_json() == {"part": "SquaredLeakyReLU", "slope": 0.5}
    moved = type("SquaredLeakyReLU", (SquaredLeakyReLU,), {"__module__": "elsewhere"})
    assert Spec(moved, node.kwargs).hash == node.hash
