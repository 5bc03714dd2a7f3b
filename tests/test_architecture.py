"""Budgets and habits that no linter checks; the strata are in `.importlinter`."""

from __future__ import annotations

import ast
import inspect
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

import copersona
from copersona import errors

SOURCE = Path(copersona.__file__).parent
TREES = {
    path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text("utf-8"))
    for path in sorted(SOURCE.rglob("*.py"))
}
LINES = {name: len((SOURCE / name).read_text("utf-8").splitlines()) for name in TREES}

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 80
MEDIAN_FUNCTION_LINES = 12
BLANKET = {
    "commands/cli.py": {"main"},
    "service/guard.py": {"__call__"},
    "service/preparing.py": {"going_on"},
    "service/tools.py": {"run"},
    "service/jobs.py": {"_run"},
    "service/job_process.py": {"do"},
    "integrations/litellm.py": {"async_pre_call_hook"},
}
"""Where any exception may be swallowed: the last handlers of the command line, of the service by
either protocol, of the thread and the process in which it has jobs done, and of a call or chat that
must not be lost."""
TORCH = {"language/encoders.py", "language/generation.py", "language/models.py"}
"""Modules outside the two trained families that may load torch; by name, which import-linter
cannot see."""
TRAINED = ("reasoning/", "softprompts/")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.Module) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def test_files_and_functions_keep_their_budgets(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {
        f"{name}:{function.name}": length(function)
        for name, tree in TREES.items()
        for function in functions(tree)
    }
    ordered = sorted(sizes.values())
    longest_file, longest = max(LINES, key=LINES.__getitem__), max(sizes, key=sizes.__getitem__)
    with capsys.disabled():
        print(  # noqa: T201 – the numbers are the point of the test
            f"\nbudgets: {len(LINES)} files, lines median {statistics.median(LINES.values()):.0f}, "
            f"max {LINES[longest_file]} ({longest_file}); {len(ordered)} functions, lines median "
            f"{statistics.median(ordered):.0f}, p90 {ordered[len(ordered) * 9 // 10]}, "
            f"max {sizes[longest]} ({longest})"
        )
    assert {n: size for n, size in LINES.items() if size > MAX_FILE_LINES} == {}
    assert {n: size for n, size in sizes.items() if size > MAX_FUNCTION_LINES} == {}
    assert statistics.median(ordered) <= MEDIAN_FUNCTION_LINES


def test_every_module_says_what_it_is() -> None:
    assert [name for name, tree in TREES.items() if not ast.get_docstring(tree)] == []


def is_blanket(handler: ast.ExceptHandler) -> bool:
    """Catches everything and does not end by raising it again."""
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    is_wide = any(
        kind is None or (isinstance(kind, ast.Name) and kind.id in {"Exception", "BaseException"})
        for kind in kinds
    )
    last = handler.body[-1]
    raises_again = isinstance(last, ast.Raise) and last.exc is None
    return is_wide and not raises_again


def test_nothing_swallows_every_exception_but_the_last_handlers() -> None:
    found = []
    for name, tree in TREES.items():
        allowed = {
            id(node)
            for function in functions(tree)
            if function.name in BLANKET.get(name, set())
            for node in ast.walk(function)
        }
        handlers = (node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler))
        found += [f"{name}:{h.lineno}" for h in handlers if is_blanket(h) and id(h) not in allowed]
    assert found == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("except Exception:\n    x = 1", True),
        ("except (KeyError, BaseException):\n    pass", True),
        ("except:\n    pass", True),
        ("except Exception:\n    x = 1\n    raise", False),
        ("except KeyError:\n    pass", False),
    ],
)
def test_a_blanket_handler_is_recognised(code: str, expected: bool) -> None:
    handler = next(
        node
        for node in ast.walk(ast.parse(f"try:\n    pass\n{code}\n"))
        if isinstance(node, ast.ExceptHandler)
    )
    assert is_blanket(handler) is expected


def test_every_exception_class_is_raised_somewhere() -> None:
    classes = {
        name
        for name, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, errors.CoPersonaError) and value is not errors.CoPersonaError
    }
    called = {
        node.func.id
        for name, tree in TREES.items()
        if name != "errors.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert classes - called == set()


def names_torch(tree: ast.Module) -> bool:
    """Loads torch, by an import or by its name handed to a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(
            a.name.split(".")[0] == "torch" for a in node.names
        ):
            return True
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            return True
        if isinstance(node, ast.Call) and any(
            isinstance(argument, ast.Constant) and argument.value == "torch"
            for argument in node.args
        ):
            return True
    return False


def test_torch_is_loaded_by_three_modules_and_what_is_trained_only() -> None:
    found = {name for name, tree in TREES.items() if names_torch(tree)}
    assert {name for name in found if not name.startswith(TRAINED)} <= TORCH
