"""Which names of TensorRT a source file uses: Python text goes in, `Use` records come out, found by reading, not running.

What the scan relies on, and the backend keeps to: the module is called `trt` (or `self._trt`); its objects are called as in
`KINDS`, with or without underscores in front, and are annotated as Any or not at all; functions that only some versions
reach are named in the file's `ONLY_BEFORE_11` or `ONLY_FROM_11`; a single name that may be missing is asked for by
`hasattr` or by `getattr` with a default. A variable of those names that is annotated otherwise, or that `except` gave, is
taken for something else.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path

KINDS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "error": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "timing_cache": "ITimingCache",
    "plan": "IHostMemory",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "context": "IExecutionContext",
    "tensor": "ITensor",
    "layer": "ILayer",
}
# What methods give, where the result is used at once: `config.get_timing_cache().serialize()`.
RETURNS = {
    "Builder.build_serialized_network": "IHostMemory",
    "Builder.create_builder_config": "IBuilderConfig",
    "Builder.create_network": "INetworkDefinition",
    "Builder.create_optimization_profile": "IOptimizationProfile",
    "INetworkDefinition.get_input": "ITensor",
    "INetworkDefinition.get_output": "ITensor",
    "OnnxParser.get_error": "ParserError",
    "IBuilderConfig.create_timing_cache": "ITimingCache",
    "IBuilderConfig.get_timing_cache": "ITimingCache",
    "ITimingCache.serialize": "IHostMemory",
    "Runtime.deserialize_cuda_engine": "ICudaEngine",
    "ICudaEngine.create_execution_context": "IExecutionContext",
    "ICudaEngine.create_engine_inspector": "EngineInspector",
}
VERSION_TABLES = ("ONLY_BEFORE_11", "ONLY_FROM_11")
_MODULE = "trt"


@dataclass(frozen=True, kw_only=True)
class Use:
    """One use of `name` (dotted, of the module or of a class). how: read, write or call; guarded: by hasattr or getattr.

    only: the version table that lists the function (or the class around it), if one does. unpacks: the call hands over
    arguments by * or **, so that they cannot be counted.
    """

    where: str
    name: str
    how: str
    positional: int = 0
    keywords: tuple[str, ...] = ()
    unpacks: bool = False
    guarded: bool = False
    only: str | None = None


@dataclass(frozen=True, kw_only=True)
class Subclass:
    """A class whose base is one of the module's. methods: its own, with their arguments after self."""

    where: str
    base: str
    methods: dict[str, tuple[str, ...]]
    calls_base_init: bool


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What one file uses. `of_module` are rooted at `trt`, `of_objects` at a variable whose name is one of KINDS."""

    of_module: list[Use] = field(default_factory=list)
    of_objects: list[Use] = field(default_factory=list)
    subclasses: list[Subclass] = field(default_factory=list)
    tables: dict[str, tuple[str, ...]] = field(default_factory=dict)
    functions: set[str] = field(default_factory=set)


def scan_file(path: Path) -> Scan:
    """What the file uses."""
    return scan_source(path.read_text(encoding="utf-8"), path.name)


def scan_source(source: str, name: str) -> Scan:
    """What this text uses; `name` is what its places are called by."""
    tree = ast.parse(source)
    scan = Scan()
    for statement in tree.body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        if isinstance(target, ast.Name) and target.id in VERSION_TABLES:
            scan.tables[target.id] = tuple(ast.literal_eval(statement.value))
    _Scanner(scan, name).visit(tree)
    return scan


class _Scanner(ast.NodeVisitor):
    def __init__(self, scan: Scan, name: str) -> None:
        self._scan = scan
        self._file = name
        self._scopes: list[str] = []
        self._guards: list[str] = []
        self._others: list[set[str]] = [set()]  # per scope, names of KINDS that are annotated as something else
        self._calls: dict[int, ast.Call] = {}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        others = {a.arg for a in arguments if a.annotation and not _is_any(a.annotation)}
        others |= {n for n in _annotated(node) if n in KINDS}
        self._scan.functions.add(node.name)
        self._within(node, others - {_MODULE})

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            dotted = self._dotted(base)
            if dotted is not None:
                self._scan.subclasses.append(_subclass(node, f"{self._file}:{node.lineno}", dotted[1]))
        self._scan.functions.add(node.name)
        self._within(node, {f"self.{n}" for n in _annotated(node) | _given(node)})

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self._others.append({node.name} if node.name else set())
        self.generic_visit(node)
        self._others.pop()

    def visit_If(self, node: ast.If | ast.IfExp) -> None:
        guards = [c.args[1].value for c in ast.walk(node.test) if _asks(c, "hasattr", 2)]
        self.visit(node.test)
        self._guards += guards
        for child in node.body if isinstance(node.body, list) else [node.body]:
            self.visit(child)
        del self._guards[len(self._guards) - len(guards) :]
        for child in node.orelse if isinstance(node.orelse, list) else [node.orelse]:
            self.visit(child)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.visit_If(node)

    def visit_Call(self, node: ast.Call) -> None:
        self._calls[id(node.func)] = node
        if _asks(node, "hasattr", 2) or _asks(node, "getattr", 2) or _asks(node, "getattr", 3):
            asked = ast.Attribute(value=node.args[0], attr=node.args[1].value, ctx=ast.Load(), lineno=node.lineno)
            self._record(asked, guarded=node.func.id == "hasattr" or len(node.args) == 3)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._record(node, guarded=node.attr in self._guards)
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):  # the whole chain is one use; what it starts from may hold others
            inner = inner.value
        self.visit(inner)

    def _record(self, node: ast.Attribute, *, guarded: bool) -> None:
        found = self._dotted(node)
        if found is None:
            return
        rooted_at_module, name = found
        call = self._calls.get(id(node))
        how = "write" if isinstance(node.ctx, ast.Store | ast.Del) else "call" if call else "read"
        use = Use(
            where=f"{self._file}:{node.lineno}",
            name=name,
            how=how,
            positional=len(call.args) if call else 0,
            keywords=tuple(k.arg for k in call.keywords if k.arg) if call else (),
            unpacks=call is not None and _unpacks(call),
            guarded=guarded,
            only=self._only(),
        )
        (self._scan.of_module if rooted_at_module else self._scan.of_objects).append(use)

    def _dotted(self, node: ast.expr) -> tuple[bool, str] | None:
        """(whether it starts at the module, the name) of a chain of attributes, None if it starts elsewhere."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            kind = self._kind(node)
            if parts and (kind or _is_module(node)):
                return kind is None, ".".join([kind or "", *reversed(parts)]).strip(".")
            parts.append(node.attr)
            node = node.value
        kind = self._kind(node)
        if not parts or not (kind or _is_module(node)):
            return None
        return kind is None, ".".join([kind or "", *reversed(parts)]).strip(".")

    def _kind(self, node: ast.expr) -> str | None:
        """The class of the object that the expression names: a variable, an attribute of self, or a call that makes one."""
        if isinstance(node, ast.Call):
            called = self._dotted(node.func) if isinstance(node.func, ast.Attribute) else None
            name = called[1] if called else ""
            return RETURNS.get(name, name if name in KINDS.values() else None)
        if isinstance(node, ast.Name):
            name, key = node.id, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            name, key = node.attr, f"self.{node.attr}"
        else:
            return None
        return None if any(key in o for o in self._others) else KINDS.get(name.lstrip("_"))

    def _within(self, node: ast.FunctionDef | ast.ClassDef, others: set[str]) -> None:
        self._scopes.append(node.name)
        self._others.append(others)
        guards, self._guards = self._guards, []
        self.generic_visit(node)
        self._guards = guards
        self._others.pop()
        self._scopes.pop()

    def _only(self) -> str | None:
        tables = [t for t, names in self._scan.tables.items() if set(names) & set(self._scopes)]
        return tables[0] if tables else None


def _is_module(node: ast.expr) -> bool:
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.attr.lstrip("_") == _MODULE
    return isinstance(node, ast.Name) and node.id.lstrip("_") == _MODULE


def _unpacks(call: ast.Call) -> bool:
    return any(isinstance(a, ast.Starred) for a in call.args) or any(k.arg is None for k in call.keywords)


def _is_any(annotation: ast.expr) -> bool:
    return ast.unparse(annotation).split(".")[-1].removesuffix(" | None") == "Any"


def _annotated(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    """Names that are annotated as something other than Any within `node`, attributes of self by their own names."""
    found = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.AnnAssign) and not _is_any(inner.annotation):
            found.add(inner.target.id if isinstance(inner.target, ast.Name) else getattr(inner.target, "attr", ""))
    return found


def _given(node: ast.ClassDef) -> set[str]:
    """Attributes of self that are set to an argument which is annotated as something other than Any."""
    found = set()
    for function in (f for f in node.body if isinstance(f, ast.FunctionDef)):
        others = {a.arg for a in function.args.args if a.annotation and not _is_any(a.annotation)}
        for assign in (a for a in ast.walk(function) if isinstance(a, ast.Assign)):
            target, value = assign.targets[0], assign.value
            both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
            pairs = zip(target.elts, value.elts, strict=True) if both else [(target, value)]
            found |= {t.attr for t, v in pairs if isinstance(t, ast.Attribute) and getattr(v, "id", None) in others}
    return found


def _asks(node: ast.AST, function: str, arguments: int) -> bool:
    """Whether this is a call such as hasattr(x, "name")."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == function
        and len(node.args) == arguments
        and isinstance(node.args[1], ast.Constant)
    )


def _subclass(node: ast.ClassDef, where: str, base: str) -> Subclass:
    methods = {
        f.name: tuple(a.arg for a in f.args.args[1:])
        for f in node.body
        if isinstance(f, ast.FunctionDef) and (f.name == "__init__" or not f.name.startswith("_"))
    }
    text = ast.unparse(node)
    calls_base_init = "__init__" not in methods or "super().__init__(" in text or f"{base}.__init__(self" in text
    return Subclass(where=where, base=base, methods=methods, calls_base_init=calls_base_init)
