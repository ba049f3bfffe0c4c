"""Where a process can die: each await on the way of a class, found in the source, and numbered in what is run.

`reached` follows names from a class through provserver's modules. `install` has those functions compiled so that every
`await`, `async with` and `async for` in them passes a point before it, at its first suspension, and after it.
"""

import ast
import sys
from collections.abc import Awaitable, Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGE = "provserver"

BEFORE, SUSPENDED, AFTER = "before", "suspended", "after"

_RUNTIME = "__points__"

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Root:
    """Where the way begins."""

    module: str
    name: str


@dataclass
class _Module:
    """functions and classes: by name. imported: alias -> (module, name in it; None for the module itself)."""

    functions: dict[str, _Function] = field(default_factory=dict)
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    imported: dict[str, tuple[str, str | None]] = field(default_factory=dict)


def reached(*roots: Root, without: Collection[str] = ()) -> dict[str, list[str]]:
    """module -> the functions, as `name` or `Class.name`, that may run when the roots' methods do, and that await.

    A method counts where its class is named, by an annotation too, and its own name follows a dot anywhere on the way:
    rather too much than too little. without: what is too much, as `module:Class.name`; where it leads is not followed.
    """
    return _Way(roots, without).awaiting()


def points(reached_: dict[str, list[str]]) -> list[str]:
    """The points of these functions, as `module:function#number`."""
    found: list[str] = []
    for module, functions in reached_.items():
        _Numbered(module, functions, found).visit(_parse(module))
    return found


def install(reached_: dict[str, list[str]], passed: Callable[[str, str], None]) -> None:
    """From the next import on, have `passed(point, BEFORE | SUSPENDED | AFTER)` called. For a process of its own."""
    assert not any(name in sys.modules for name in reached_), "imported before it was instrumented"
    runtime = ModuleType(_RUNTIME)
    runtime.awaiting = _awaiting(passed)  # type: ignore[attr-defined]
    runtime.entering = _entering(passed)  # type: ignore[attr-defined]
    runtime.iterating = _iterating(passed)  # type: ignore[attr-defined]
    sys.modules[_RUNTIME] = runtime
    sys.meta_path.insert(0, _Finder(reached_))


class _Way:
    """The functions that names lead to."""

    def __init__(self, roots: Sequence[Root], without: Collection[str]) -> None:
        self._without = set(without)
        self._modules: dict[str, _Module] = {}
        self._functions: dict[tuple[str, str], _Function] = {}
        self._classes: set[tuple[str, str]] = set()
        self._members: set[str] = set()
        for root in roots:
            class_ = self._module(root.module).classes[root.name]
            self._members |= {each.name for each in _methods(class_) if not each.name.startswith("_")}
            self._refer(root.module, root.name)
        known = -1
        while known != (known := len(self._functions)):
            for module, name in sorted(self._classes):
                for method in _methods(self._module(module).classes[name]):
                    if method.name in self._members or method.name.startswith("__"):
                        self._follow(module, f"{name}.{method.name}", method)

    def awaiting(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for (module, name), node in sorted(self._functions.items()):
            if any(_suspends(each) for each in ast.walk(node)):
                found.setdefault(module, []).append(name)
        return found

    def _module(self, name: str) -> _Module:
        if name not in self._modules:
            self._modules[name] = found = _Module()
            for node in ast.walk(_parse(name)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
                    assert node.module is not None
                    for each in node.names:
                        inner = f"{node.module}.{each.name}"
                        target = (inner, None) if _path(inner) else (node.module, each.name)
                        found.imported[each.asname or each.name] = target
            for node in _parse(name).body:
                if isinstance(node, _Function):
                    found.functions[node.name] = node
                elif isinstance(node, ast.ClassDef):
                    found.classes[node.name] = node
        return self._modules[name]

    def _refer(self, module: str, name: str) -> None:
        """What a name of a module leads to."""
        known = self._module(module)
        if name in known.functions:
            self._follow(module, name, known.functions[name])
        elif name in known.classes and (module, name) not in self._classes:
            self._classes.add((module, name))
            for base in known.classes[name].bases:
                if isinstance(base, ast.Name):
                    self._refer(module, base.id)
        elif name in known.imported:
            target, inner = known.imported[name]
            if inner is not None:
                self._refer(target, inner)

    def _follow(self, module: str, name: str, node: _Function) -> None:
        if (module, name) in self._functions or _short(module, name) in self._without:
            return
        self._functions[module, name] = node
        for each in ast.walk(node):
            if isinstance(each, ast.Name):
                self._refer(module, each.id)
            elif isinstance(each, ast.Attribute):
                self._members.add(each.attr)
                if isinstance(each.value, ast.Name):
                    target, inner = self._module(module).imported.get(each.value.id, (None, None))
                    if target is not None and inner is None:
                        self._refer(target, each.attr)


class _Numbered(ast.NodeTransformer):
    """Gives each await a number, and calls of the runtime."""

    def __init__(self, module: str, functions: Sequence[str], found: list[str]) -> None:
        self._module = module
        self._functions = functions
        self._found = found
        self._at: list[str] = []
        self._count: dict[str, int] = {}

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._within(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._within(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._within(node)

    def visit_Await(self, node: ast.Await) -> ast.AST:
        point = self._point()
        self.generic_visit(node)
        return node if point is None else ast.Await(_call("awaiting", point, node.value))

    def visit_AsyncWith(self, node: ast.AsyncWith) -> ast.AST:
        for item in node.items:
            enter, leave = self._point(), self._point()
            item.context_expr = self.visit(item.context_expr)
            if enter is not None and leave is not None:
                item.context_expr = _call("entering", enter, item.context_expr, leave)
        node.body = [self.visit(each) for each in node.body]
        return node

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.AST:
        self._iterate(node)
        return self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        if node.is_async:
            self._iterate(node)
        return self.generic_visit(node)

    def _iterate(self, node: ast.AsyncFor | ast.comprehension) -> None:
        if (point := self._point()) is not None:
            node.iter = _call("iterating", point, node.iter)

    def _within(self, node: ast.ClassDef | _Function) -> ast.AST:
        self._at.append(node.name)
        self.generic_visit(node)
        self._at.pop()
        return node

    def _point(self) -> str | None:
        names = (".".join(self._at[:depth]) for depth in range(1, len(self._at) + 1))
        function = next((name for name in names if name in self._functions), None)
        if function is None:
            return None
        number = self._count[function] = self._count.get(function, 0) + 1
        point = f"{_short(self._module, function)}#{number}"
        self._found.append(point)
        return point


class _Finder(MetaPathFinder):
    def __init__(self, reached_: dict[str, list[str]]) -> None:
        self._reached = reached_

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in self._reached:
            return None
        spec = PathFinder.find_spec(name, path, target)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _Loader(name, spec.origin, self._reached[name])
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, functions: Sequence[str]) -> None:
        super().__init__(name, path)
        self._functions = functions

    def get_code(self, fullname: str) -> CodeType:  # not what is compiled already, nor to be kept
        tree = _Numbered(fullname, self._functions, []).visit(_parse(fullname))
        # After the docstring and the imports from the future, of which there are none.
        tree.body.insert(1, ast.Import([ast.alias(_RUNTIME)]))
        return compile(ast.fix_missing_locations(tree), self.path, "exec")


class _Suspension:
    """Awaits what it is given, and tells when that is suspended for the first time."""

    def __init__(self, awaitable: Awaitable[Any], suspended: Callable[[], None]) -> None:
        self._awaitable = awaitable
        self._suspended = suspended

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._awaitable.__await__()
        try:
            waited_for = next(inner)
            self._suspended()
            while True:
                try:
                    sent = yield waited_for
                except BaseException as fault:
                    waited_for = inner.throw(fault)
                else:
                    waited_for = inner.send(sent)
        except StopIteration as end:
            return end.value


def _awaiting(passed: Callable[[str, str], None]) -> Callable[[str, Awaitable[Any]], Awaitable[Any]]:
    async def awaiting(point: str, awaitable: Awaitable[Any]) -> Any:
        passed(point, BEFORE)
        result = await _Suspension(awaitable, lambda: passed(point, SUSPENDED))
        passed(point, AFTER)
        return result

    return awaiting


def _entering(passed: Callable[[str, str], None]) -> type:
    awaiting = _awaiting(passed)

    class Entering:
        def __init__(self, enter: str, manager: Any, leave: str) -> None:
            self._enter, self._manager, self._leave = enter, manager, leave

        async def __aenter__(self) -> Any:
            return await awaiting(self._enter, self._manager.__aenter__())

        async def __aexit__(self, *fault: object) -> Any:
            return await awaiting(self._leave, self._manager.__aexit__(*fault))

    return Entering


def _iterating(passed: Callable[[str, str], None]) -> Callable[[str, Any], Any]:
    awaiting = _awaiting(passed)

    async def iterating(point: str, iterable: Any) -> Any:
        iterator = aiter(iterable)
        while True:
            try:
                item = await awaiting(point, anext(iterator))
            except StopAsyncIteration:
                return
            yield item

    return iterating


def _call(function: str, point: str, value: ast.expr, *more: str) -> ast.Call:
    called = ast.Attribute(ast.Name(_RUNTIME, ast.Load()), function, ast.Load())
    return ast.Call(called, [ast.Constant(point), value, *map(ast.Constant, more)], [])


def _short(module: str, function: str) -> str:
    return f"{module.removeprefix(f'{PACKAGE}.')}:{function}"


def _methods(class_: ast.ClassDef) -> Iterator[_Function]:
    return (each for each in class_.body if isinstance(each, _Function))


def _suspends(node: ast.AST) -> bool:
    suspending = ast.Await | ast.AsyncWith | ast.AsyncFor
    return isinstance(node, suspending) or (isinstance(node, ast.comprehension) and bool(node.is_async))


def _path(module: str) -> Path | None:
    stem = ROOT.joinpath(*module.split("."))
    return next((each for each in (stem.with_suffix(".py"), stem / "__init__.py") if each.exists()), None)


def _parse(module: str) -> ast.Module:
    path = _path(module)
    assert path is not None
    return ast.parse(path.read_text())
