"""Imports point down only, and I/O stays where it belongs."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import agentic_trio

PACKAGE = Path(agentic_trio.__file__).parent

LAYERS = (
    ("config", "context", "errors", "minting", "settings", "types"),
    ("net", "http1", "wire", "telemetry"),
    ("store", "upstream", "tools"),
    ("auth",),
    ("gateway",),
    ("web",),
    ("server",),
    ("cli", "asgi", "__main__"),
)
"""From the bottom to the top. What stands in one layer may use what stands below it."""

RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

PACKAGES = (
    *("net", "http1", "wire", "telemetry"),
    *("store", "upstream", "tools", "auth", "gateway", "web", "server", "cli"),
)
"""Each knows nothing of its neighbours in the same layer."""

RESOURCES = frozenset({"responses", "conversations", "items"})
"""The API's resources: the only names that modules of several packages may share."""

PURE = frozenset(
    {
        "__future__",
        "collections",
        "cryptography",
        "dataclasses",
        "difflib",
        "functools",
        "hashlib",
        "json",
        "math",
        "msgspec",
        "re",
        "typing",
    }
)
"""What the wire layer may import beside itself: nothing here reads or writes anything."""

OWNERS = {
    # The demo is a client of the gateway, not of the model server.
    "httpx": ("upstream", "http1.client_side", "cli.demo", "cli.doctor.model_server"),
    "sqlite3": ("store",),
    "quart": ("web",),
    "quart_trio": ("web", "asgi"),
    "httptools": ("http1",),
    "mcp": ("tools",),
    "httpx2": ("tools",),
    "httpcore2": ("tools",),
    "jsonschema": ("tools",),
    "structlog": ("telemetry",),
    "prometheus_client": ("telemetry",),
    "opentelemetry": ("telemetry",),
    "cryptography": ("wire.sealing",),
    "wsproto": ("server.websocket",),
}
"""Library -> the only modules that may name it."""


class Import(NamedTuple):
    """``module`` imports ``target``; both without the package's own name if they are ours."""

    module: str
    line: int
    target: str
    ours: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"

    @property
    def layer(self) -> str:
        return self.module.partition(".")[0]

    @property
    def below(self) -> str:
        return self.target.partition(".")[0]


def imports_of(path: Path) -> list[Import]:
    """Every import of a file, those for the type checker and inside of functions included."""
    module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = [PACKAGE.name, *module.split(".")][: -node.level] if node.level else []
            base = ".".join([*parent, *filter(None, [node.module])])
            # "from agentic_trio.wire import sse" names a module, not a member.
            names = [f"{base}.{alias.name}" if is_package(base) else base for alias in node.names]
        else:
            continue
        for name in names:
            ours = name.split(".")[0] == PACKAGE.name
            found.append(Import(module, node.lineno, name.removeprefix(f"{PACKAGE.name}."), ours))
    return found


def is_package(name: str) -> bool:
    return name.split(".")[0] == PACKAGE.name and PACKAGE.joinpath(*name.split(".")[1:]).is_dir()


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
IMPORTS = [each for path in MODULES for each in imports_of(path)]


def test_every_module_stands_in_a_layer() -> None:
    names = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert names <= set(RANK)


def test_no_import_points_up() -> None:
    wrong = [str(each) for each in IMPORTS if each.ours and RANK[each.below] > RANK[each.layer]]
    assert not wrong


def test_neighbouring_packages_know_nothing_of_each_other() -> None:
    wrong = [
        str(each)
        for each in IMPORTS
        if each.ours
        and each.layer in PACKAGES
        and each.below != each.layer
        and RANK[each.below] == RANK[each.layer]
    ]
    assert not wrong


def test_no_import_leads_back_to_its_module() -> None:
    imported: dict[str, set[str]] = defaultdict(set)
    for each in IMPORTS:
        if each.ours:
            imported[each.module].add(each.target)
    # A circle is a CycleError that names its modules.
    TopologicalSorter(imported).prepare()


def test_a_name_in_two_packages_is_a_resource_of_the_api() -> None:
    names = Counter(path.stem for path in MODULES if not path.stem.startswith("__"))
    assert {name for name, count in names.items() if count > 1} <= RESOURCES


def test_the_wire_layer_does_no_io() -> None:
    wrong = [
        str(each) for each in IMPORTS if each.layer == "wire" and not each.ours and each.below not in PURE
    ]
    assert not wrong


def test_the_wire_layer_awaits_nothing() -> None:
    waiting = (ast.Await, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith)
    wrong = [
        f"{path.name}:{node.lineno}"
        for path in sorted((PACKAGE / "wire").glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, waiting)
    ]
    assert not wrong


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_is_named_only_where_it_belongs(library: str) -> None:
    owners = OWNERS[library]
    wrong = [
        str(each)
        for each in IMPORTS
        if each.below == library
        and not each.ours
        and not any(each.module == owner or each.module.startswith(f"{owner}.") for owner in owners)
    ]
    assert not wrong


def test_the_local_model_s_process_does_not_load_the_gateway() -> None:
    child = "cli.local_model.child"
    assert child in {each.module for each in IMPORTS}
    assert not [str(each) for each in IMPORTS if each.module == child and each.ours]
