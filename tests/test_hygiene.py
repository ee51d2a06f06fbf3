"""The package as a whole: imports go one way, importing is light and leaves nothing behind, names are as promised."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import slowspan

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(slowspan.__file__).parent
HEAVY = {
    *(
        "apprise",
        "asyncio",
        "click",
        "email",
        "flask",
        "http",
        "limits",
        "mattermostdriver",
        "pyinstrument",
        "requests",
    ),
    *("sqlite3", "subprocess", "tenacity", "tomllib", "yaml"),
}


def module_name(path: Path) -> str:
    """Return the name by which a file of the package is imported."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def is_type_checking(node: ast.stmt) -> bool:
    """Tell whether a statement is a block for type checkers only."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports_at_the_top(body: list[ast.stmt]) -> Iterator[str]:
    """Yield what is imported whenever the module is, functions and type checkers' blocks left out."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else str(node.module)
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if is_type_checking(node):
                continue
            for block in ("body", "orelse", "handlers", "finalbody"):
                children: list[Any] = getattr(node, block, [])
                for child in children:
                    yield from imports_at_the_top(child.body if isinstance(child, ast.ExceptHandler) else [child])


def imports_of(name: str) -> set[str]:
    """Return what a module of the package imports at its top."""
    return set(imports_at_the_top(ast.parse(MODULES[name].read_text(encoding="utf-8")).body))


def test_imports_go_one_way() -> None:
    """No module of the package imports itself through others."""
    graph = {name: imports_of(name) & set(MODULES) for name in MODULES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for imported in graph[name]:
                visit(imported, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    assert sum(map(len, graph.values())) > 20, "the walk sees hardly any import"


def test_heavy_imports_are_not_at_the_top() -> None:
    """Only modules that are themselves imported late have a heavy import at their top."""
    eager: set[str] = set()

    def visit(name: str) -> None:
        if name in MODULES and name not in eager:
            eager.add(name)
            for imported in imports_of(name):
                visit(imported)

    for name in ("slowspan", "slowspan.processor", "slowspan.instrumentor", "slowspan.control"):
        visit(name)
    found = {name: {top.partition(".")[0] for top in imports_of(name)} & HEAVY for name in eager}
    assert {name: heavy for name, heavy in found.items() if heavy} == {}


def run(code: str) -> Any:
    """Run a script in a fresh interpreter; return what it printed as JSON."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


SET_UP = """
import json, sys, threading
import opentelemetry.sdk.trace
before = set(sys.modules)
import slowspan
processor = slowspan.SlowSpanProcessor()
"""

FAST_REQUEST = """
from opentelemetry.trace import SpanKind
provider = opentelemetry.sdk.trace.TracerProvider()
provider.add_span_processor(processor)
provider.get_tracer("test").start_span("GET /", kind=SpanKind.SERVER).end()
"""


@pytest.mark.parametrize("code", [SET_UP, SET_UP + FAST_REQUEST], ids=["set up", "fast request"])
def test_nothing_heavy_is_loaded(code: str) -> None:
    """Neither setting up nor a fast request loads anything heavy that OpenTelemetry's SDK has not loaded."""
    loaded = run(code + "print(json.dumps(sorted(set(sys.modules) - before)))")
    assert {name.partition(".")[0] for name in loaded} & HEAVY == set()


def test_import_and_set_up_start_no_thread() -> None:
    """No thread runs before the first span: a server may still fork."""
    assert run(SET_UP + "print(json.dumps([t.name for t in threading.enumerate()]))") == ["MainThread"]
    names = run(SET_UP + FAST_REQUEST + "print(json.dumps([t.name for t in threading.enumerate()]))")
    assert names == ["MainThread", "slowspan-sampler"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("slowspan")]


def test_import_alone_loads_next_to_nothing() -> None:
    """``import slowspan`` by itself loads no OpenTelemetry: the child process that renders reports has none."""
    code = "import json, sys; import slowspan; print(json.dumps(sorted(sys.modules)))"
    roots = {name.partition(".")[0] for name in run(code)}
    assert not roots & (HEAVY | {"opentelemetry"})


def test_public_names() -> None:
    """Every public name is there, once, in order, and nothing else is offered."""
    assert slowspan.__all__ == sorted(set(slowspan.__all__))
    assert dir(slowspan) == slowspan.__all__
    for name in slowspan.__all__:
        assert getattr(slowspan, name) is not None
    starred: dict[str, object] = {}
    exec("from slowspan import *", starred)
    assert set(starred) - {"__builtins__"} == set(slowspan.__all__)


def test_names_for_type_checkers() -> None:
    """What a type checker is told of the public names is where they really come from."""
    tree = ast.parse(MODULES["slowspan"].read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if is_type_checking(node)]
    told = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    told.pop("Any", None)
    assert set(told) == set(slowspan.__all__) - {"__version__"}
    for name, home in told.items():
        assert getattr(slowspan, name) is getattr(import_module(str(home)), name)


def test_unknown_name() -> None:
    """A name that there is not raises as of any module."""
    with pytest.raises(AttributeError, match="no attribute 'quick_start'"):
        slowspan.quick_start  # noqa: B018
    assert not hasattr(slowspan, "__path_of_nothing__")


def test_package_is_typed() -> None:
    """The package tells type checkers that it has types."""
    assert (PACKAGE / "py.typed").is_file()
