"""Static scan of a Python source file for the names of TensorRT that it uses, returned as `Use` records.

The scan relies on conventions that the backend follows: the module is called `trt` (or `self._trt`); its objects have the
names of `KINDS`, with or without leading underscores, and are annotated as Any or not at all. A variable of those names with
another annotation, or from `except`, is ignored. Names in texts, for `hasattr` and `getattr`, are not seen.
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
    "context": "IExecutionContext",
    "tensor": "ITensor",
}
# Return types of methods, for results that are used directly: `config.get_timing_cache().serialize()`.
RETURNS = {
    "Builder.build_serialized_network": "IHostMemory",
    "Builder.create_builder_config": "IBuilderConfig",
    "Builder.create_network": "INetworkDefinition",
    "Builder.create_optimization_profile": "IOptimizationProfile",
    "INetworkDefinition.get_input": "ITensor",
    "OnnxParser.get_error": "ParserError",
    "IBuilderConfig.create_timing_cache": "ITimingCache",
    "IBuilderConfig.get_timing_cache": "ITimingCache",
    "ITimingCache.serialize": "IHostMemory",
    "Runtime.deserialize_cuda_engine": "ICudaEngine",
    "ICudaEngine.create_execution_context": "IExecutionContext",
}
_MODULE = "trt"


@dataclass(frozen=True, kw_only=True)
class Use:
    """One use of a name of the module or of a class."""

    where: str  # file and line
    name: str  # dotted
    access: str  # read, write or call
    positional: int = 0
    keywords: tuple[str, ...] = ()
    unpacks: bool = False  # the call has arguments by * or **, which cannot be counted


@dataclass(frozen=True, kw_only=True)
class Subclass:
    """A class derived from one of the module's."""

    where: str  # file and line
    base: str
    methods: dict[str, tuple[str, ...]]  # its own, with their arguments without self
    calls_base_init: bool


@dataclass(frozen=True, kw_only=True)
class Scan:
    """All uses in one file."""

    of_module: list[Use] = field(default_factory=list)  # that begin with `trt`
    of_objects: list[Use] = field(default_factory=list)  # that begin with a variable named in KINDS
    subclasses: list[Subclass] = field(default_factory=list)


def scan_file(path: Path) -> Scan:
    """Scan a file."""
    return scan_source(path.read_text(encoding="utf-8"), path.name)


def scan_source(source: str, name: str) -> Scan:
    """Scan a source text. name: file name for the reported positions."""
    tree = ast.parse(source)
    scan = Scan()
    _Scanner(scan, name).visit(tree)
    return scan


class _Scanner(ast.NodeVisitor):
    def __init__(self, scan: Scan, name: str) -> None:
        self._scan = scan
        self._file = name
        self._others: list[set[str]] = [set()]  # per scope, names of KINDS that are annotated as something else
        self._calls: dict[int, ast.Call] = {}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        others = {a.arg for a in arguments if a.annotation and not _is_any(a.annotation)}
        others |= {n for n in _annotated(node) if n in KINDS}
        self._within(node, others - {_MODULE})

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            dotted = self._dotted(base)
            if dotted is not None:
                self._scan.subclasses.append(_subclass(node, f"{self._file}:{node.lineno}", dotted[1]))
        self._within(node, {f"self.{n}" for n in _annotated(node) | _given(node)})

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self._others.append({node.name} if node.name else set())
        self.generic_visit(node)
        self._others.pop()

    def visit_Call(self, node: ast.Call) -> None:
        self._calls[id(node.func)] = node
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._record(node)
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):  # the full chain is one use; its first expression may contain others
            inner = inner.value
        self.visit(inner)

    def _record(self, node: ast.Attribute) -> None:
        found = self._dotted(node)
        if found is None:
            return
        rooted_at_module, name = found
        call = self._calls.get(id(node))
        access = "write" if isinstance(node.ctx, ast.Store | ast.Del) else "call" if call else "read"
        use = Use(
            where=f"{self._file}:{node.lineno}",
            name=name,
            access=access,
            positional=len(call.args) if call else 0,
            keywords=tuple(k.arg for k in call.keywords if k.arg) if call else (),
            unpacks=call is not None and _unpacks(call),
        )
        (self._scan.of_module if rooted_at_module else self._scan.of_objects).append(use)

    def _dotted(self, node: ast.expr) -> tuple[bool, str] | None:
        """Return whether a chain of attributes begins with the module, and its name; None if it begins elsewhere."""
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
        """Return the class of the object of an expression: a variable, an attribute of self, or a constructing call."""
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
        self._others.append(others)
        self.generic_visit(node)
        self._others.pop()


def _is_module(node: ast.expr) -> bool:
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.attr.lstrip("_") == _MODULE
    return isinstance(node, ast.Name) and node.id.lstrip("_") == _MODULE


def _unpacks(call: ast.Call) -> bool:
    return any(isinstance(a, ast.Starred) for a in call.args) or any(k.arg is None for k in call.keywords)


def _is_any(annotation: ast.expr) -> bool:
    return ast.unparse(annotation).split(".")[-1].removesuffix(" | None") == "Any"


def _annotated(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    """Return the names in `node` with an annotation other than Any; attributes of self without `self.`."""
    found = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.AnnAssign) and not _is_any(inner.annotation):
            found.add(inner.target.id if isinstance(inner.target, ast.Name) else getattr(inner.target, "attr", ""))
    return found


def _given(node: ast.ClassDef) -> set[str]:
    """Return the attributes of self that are set to an argument with an annotation other than Any."""
    found = set()
    for function in (f for f in node.body if isinstance(f, ast.FunctionDef)):
        others = {a.arg for a in function.args.args if a.annotation and not _is_any(a.annotation)}
        for assign in (a for a in ast.walk(function) if isinstance(a, ast.Assign)):
            target, value = assign.targets[0], assign.value
            both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
            pairs = zip(target.elts, value.elts, strict=True) if both else [(target, value)]
            found |= {t.attr for t, v in pairs if isinstance(t, ast.Attribute) and getattr(v, "id", None) in others}
    return found


def _subclass(node: ast.ClassDef, where: str, base: str) -> Subclass:
    methods = {
        f.name: tuple(a.arg for a in f.args.args[1:])
        for f in node.body
        if isinstance(f, ast.FunctionDef) and (f.name == "__init__" or not f.name.startswith("_"))
    }
    text = ast.unparse(node)
    calls_base_init = "__init__" not in methods or "super().__init__(" in text or f"{base}.__init__(self" in text
    return Subclass(where=where, base=base, methods=methods, calls_base_init=calls_base_init)
