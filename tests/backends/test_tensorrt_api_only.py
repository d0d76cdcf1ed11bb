"""Check of the TensorRT backend against the API of NVIDIA's bindings; no engine is built or run, no result is tested.

Every class, flag, method and argument that the backend uses is looked up in NVIDIA's own Python bindings of three versions,
which can be imported without a GPU on stubs of their libraries. The backend is scanned (see trt_scan.py), not run; the fake
that other tests use is compared with the same bindings.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from cxr_edge.backends import tensorrt, tensorrt_build
from tests.doubles import tensorrt as fake_tensorrt
from tests.doubles import trt_api, trt_scan
from tests.doubles.trt_api import VERSIONS, Api, Bindings
from tests.doubles.trt_scan import Scan, Subclass, Use

BACKENDS = Path(__file__).parents[2] / "cxr_edge" / "backends"
FILES = sorted(BACKENDS.glob("tensorrt*.py"))
FLAVOURS = {"10.3": "10.3.0", "10.16": "10.16.1.11", "11.4": "11.4.0.106"}

# Methods that a subclass in Python must define: without them the bindings print an error, and a monitor cancels the build.
MUST_DEFINE = {
    "ILogger": ("log",),
    "IProgressMonitor": ("phase_start", "step_complete", "phase_finish"),
}


@pytest.fixture(scope="module")
def bindings(tmp_path_factory) -> dict[str, Bindings]:
    """Return the installed bindings by version: newer Pythons have no wheel of the older versions."""
    installed = [v for v in VERSIONS if trt_api.absent_because(v) is None]
    if not installed:
        pytest.skip(trt_api.absent_because(VERSIONS[0]))
    return {v: trt_api.open_bindings(v, tmp_path_factory.mktemp(f"libraries-{v}")) for v in installed}


@pytest.fixture(scope="module")
def apis(bindings) -> dict[str, Api]:
    return {version: opened.api() for version, opened in bindings.items()}


@pytest.fixture(scope="module")
def all_apis(apis) -> dict[str, Api]:
    for version in VERSIONS:
        if version not in apis:
            pytest.skip(trt_api.absent_because(version))
    return apis


@pytest.fixture(params=VERSIONS)
def version(request, bindings) -> str:
    if request.param not in bindings:
        pytest.skip(trt_api.absent_because(request.param))
    return request.param


@pytest.fixture(scope="module")
def scans() -> list[Scan]:
    return [trt_scan.scan_file(path) for path in FILES]


def problems(scan: Scan, apis: dict[str, Api]) -> list[str]:
    """Return the uses in the text that a version lacks or does not accept."""
    return [p for use in (*scan.of_module, *scan.of_objects) for p in _problems_of(use, apis)]


def _problems_of(use: Use, apis: dict[str, Api]) -> list[str]:
    missing = {v: api.missing(use.name) for v, api in apis.items()}
    texts = {v: f"has no {missing[v]}" if missing[v] else _misuse(use, apis[v]) for v in apis}
    return [f"{use.where}: TensorRT {v} {text}" for v, text in texts.items() if text]


def _misuse(use: Use, api: Api) -> str | None:
    """Return how the use contradicts the API, or None."""
    name, entry = _last_known(use.name, api)
    if name != use.name:
        return None
    if use.access == "write":
        return None if entry.writable else f"cannot set {name}"
    if use.access == "read":
        return f"has a method {name}, which is not called" if entry.kind == "function" and "." in name else None
    positional = use.positional - name.endswith(".__init__")  # called on the class, which makes self an argument
    if entry.kind == "class":
        name, entry = f"{name}.__init__", api.entries[f"{name}.__init__"]
    if entry.kind != "function":
        return f"cannot call {name}"
    if not use.unpacks and not any(s.accepts(positional, use.keywords) for s in entry.signatures):
        return f"has {name} with the arguments {[s.names for s in entry.signatures]}"
    return None


def _last_known(dotted: str, api: Api):
    """Return the longest declared prefix of the name and its entry, for example `__version__` of `__version__.split`."""
    parts = dotted.split(".")
    name = next(n for i in range(len(parts), 0, -1) if (n := ".".join(parts[:i])) in api.entries)
    return name, api.entries[name]


def problems_of_text(text: str, apis: dict[str, Api]) -> list[str]:
    return problems(trt_scan.scan_source(text, "text.py"), apis)


def test_the_bindings_are_nvidias(apis, version):
    assert apis[version].version == FLAVOURS[version]
    assert len(apis[version].entries) > 2000


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("trt.Bilder(logger)", r"text.py:1: TensorRT 10.3 has no Bilder"),
        ("self._trt.Bilder(logger)", r"11.4 has no Bilder"),
        ("trt.BuilderFlag.FP16", r"11.4 has no BuilderFlag.FP16"),
        ("trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY", r"10.3 has no HardwareCompatibilityLevel.SAME_"),
        ("trt.Builder()", r"has Builder.__init__ with the arguments \[\('logger',\)\]"),
        ("trt.Logger(trt.Logger.WARNING, 1)", r"has Logger.__init__ with"),
        ("trt.Logger.WARNNG", r"has no Logger.WARNNG"),
        ("trt.Builder(logger).create_network(0, 1)", r"has Builder.create_network with the arguments \[\('flags',\)\]"),
        ("builder.platform_has_fast_fp16", r"11.4 has no Builder.platform_has_fast_fp16"),
        ("builder.create_network(flag=0)", r"has Builder.create_network with"),
        ("self._engine.num_bindings", r"10.3 has no ICudaEngine.num_bindings"),
        ("engine.num_layers = 3", r"cannot set ICudaEngine.num_layers"),
        ("engine.num_layers()", r"cannot call ICudaEngine.num_layers"),
        ("error.desc", r"has a method ParserError.desc, which is not called"),
        ("parser.get_error(0).description()", r"has no ParserError.description"),
        ("config.get_timing_cache().serialise()", r"has no ITimingCache.serialise"),
        ("trt.ILogger.__init__(self, 1)", r"has ILogger.__init__ with the arguments \[\(\)\]"),
        ("context.execute_async_v2([], 0)", r"has no IExecutionContext.execute_async_v2"),
        ("def f(engine: Any): engine.max_batch_size", r"has no ICudaEngine.max_batch_size"),
    ],
)
def test_the_scan_finds_the_problem(all_apis, text, problem):
    found = problems_of_text(text, all_apis)
    assert any(re.search(problem, f) for f in found), found


@pytest.mark.parametrize(
    "text",
    [
        "trt.Builder(trt.Logger(trt.Logger.WARNING)).create_network(flags=0)",
        "trt.__version__.split('.')",
        "1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)",
        "profile.set_shape('x', (1,), (1,), max=(4,))",
        "profile.set_shape('x', *shapes)",
        "config.builder_optimization_level = 5",
        "str(self._engine.get_tensor_dtype(name).name)",
        "trt.ILogger.__init__(self)",
        "config.get_timing_cache().serialize().nbytes",
        "try: pass\nexcept OSError as error: error.errno",
        "def load(engine: Path): engine.read_bytes()",
        "class A:\n  def __init__(self, engine: B, x): self._engine, self.x = engine, x\n  def f(self): self._engine.run()",
        "class A:\n  _engine: Path\n  def f(self): self._engine.read_bytes()",
    ],
)
def test_the_scan_accepts_valid_code(apis, text):
    assert problems_of_text(text, apis) == []


def test_return_types_match_the_bindings(apis, version):
    declared = {n: {s.returns for s in apis[version].entries[n].signatures} for n in trt_scan.RETURNS}
    assert declared == {n: {kind} for n, kind in trt_scan.RETURNS.items()}


def test_undocumented_behaviour_that_the_backend_relies_on(bindings, version):
    """Neither the docstrings nor the signatures document this."""
    code = """
import contextlib, io
def error_of(kind, run):
    try:
        run()
    except kind as error:
        return str(error)
    return None
class Silent(trt.ILogger):
    def __init__(self):
        pass
    def log(self, severity, msg):
        pass
flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
described = trt.PluginTensorDesc()
described.dims = (1, 3, 8)  # as any property of that type: a network's tensor, say
answer = {
    "shift": error_of(TypeError, lambda: 1 << flag),
    "subscript": error_of(TypeError, lambda: trt.BuilderFlag["TF32"]),
    "builder": error_of(TypeError, lambda: trt.Builder(trt.Logger())),
    "runtime": error_of(TypeError, lambda: trt.Runtime(trt.Logger())),
    "no logger": error_of(TypeError, lambda: trt.Runtime(None)),
    "no base init": error_of(TypeError, Silent),
    "stray attribute": error_of(AttributeError, lambda: setattr(trt.Logger(), "stray", 1)),
    "shape": tuple(trt.Dims([1, -1])) == (1, -1) == trt.Dims([1, -1]),
    "tuples are shapes": tuple(described.dims) == (1, 3, 8),
    "same type": trt.float16 == trt.DataType.HALF,
    "name": trt.DataType.HALF.name,
    "name of an error": str(trt.ErrorCode.INVALID_NODE),  # its `.name` is a method in 10.3
    "type": str(trt.nptype(trt.DataType.HALF).__name__),
}
"""
    answer = bindings[version].run(code)
    assert all(answer.values()), answer
    assert "factory function returned nullptr" in answer["builder"]
    assert "factory function returned nullptr" in answer["runtime"]
    assert (answer["name"], answer["type"]) == ("HALF", "float16")
    assert answer["name of an error"] == "ErrorCode.INVALID_NODE"


def test_the_backend_uses_only_what_every_version_has(apis, scans):
    found = [p for scan in scans for p in problems(scan, apis)]
    assert not found, "\n".join(found)


def test_names_that_the_backend_stores_as_text_exist(all_apis):
    """10.3 alone lacks a level, and the backend tells so."""
    levels = [f"HardwareCompatibilityLevel.{name}" for name in tensorrt_build._LEVELS.values()]
    kinds = [f"DataType.{name}" for name in tensorrt._DTYPES]
    missing = {(v, n) for v, api in all_apis.items() for n in levels + kinds if n not in api.entries}
    assert missing == {("10.3", "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY")}


def test_subclasses_of_the_backend_match_the_bindings(bindings, apis, scans):
    subclasses = [subclass for scan in scans for subclass in scan.subclasses]
    assert {s.base for s in subclasses} <= set(MUST_DEFINE)
    for subclass in subclasses:
        assert subclass.calls_base_init, f"{subclass.where}: __init__ must call {subclass.base}.__init__"
        assert set(MUST_DEFINE[subclass.base]) <= set(subclass.methods), subclass.where
        for version in bindings:
            _check_subclass(subclass, version, bindings, apis)


def _check_subclass(subclass: Subclass, version: str, bindings, apis) -> None:
    methods = {m: a for m, a in subclass.methods.items() if f"{subclass.base}.{m}" in apis[version].entries}
    for method, arguments in methods.items():
        if method != "__init__":
            declared = [s.names for s in apis[version].entries[f"{subclass.base}.{method}"].signatures]
            assert arguments in declared, f"{subclass.where}: TensorRT {version} has {method}{declared}"
    assert bindings[version].run(_subclass_code(subclass.base, methods)) == len(methods)


def _subclass_code(base: str, methods: dict[str, tuple[str, ...]]) -> str:
    """Return code that subclasses `base` with these methods, creates an instance, calls each method and counts."""
    own = {m: a for m, a in methods.items() if m != "__init__"}
    lines = [f"class Own(trt.{base}):", "    def __init__(self):", f"        trt.{base}.__init__(self)"]
    lines += [f"    def {m}(self, {', '.join(a)}):\n        return 1" for m, a in own.items()]
    calls = [f"own.{m}({', '.join('1' * len(a))})" for m, a in own.items()]
    return "\n".join([*lines, "own = Own()", f"answer = sum([{', '.join(calls)}]) + {len(methods) - len(own)}"])


@pytest.mark.parametrize("base", MUST_DEFINE)
def test_the_classes_to_derive_from_can_be_subclassed(bindings, apis, version, base):
    methods = {m: apis[version].entries[f"{base}.{m}"].signatures[0].names for m in MUST_DEFINE[base]}
    assert bindings[version].run(_subclass_code(base, methods)) == len(methods)


def test_every_member_of_the_fake_exists_in_the_bindings(apis, version):
    api, fake = apis[version], fake_tensorrt.make(FLAVOURS[version])
    for name, value in _public(fake):
        assert name in api.entries, name
        assert _alike(name, value, api), (name, api.entries[name])


def _public(fake):
    """Yield every name of the fake with its value; for classes, all members that the fake itself defines."""
    for name, value in vars(fake).items():
        if name.startswith("_"):
            continue
        yield name, value
        members: dict = {}
        for part in inspect.getmro(value) if inspect.isclass(value) else ():
            if part.__module__.startswith("tests."):
                members = {**vars(part), **members}
        yield from ((f"{name}.{m}", v) for m, v in members.items() if not m.startswith("_"))


def _alike(name: str, value, api: Api) -> bool:
    entry = api.entries[name]
    if inspect.isclass(value):
        return entry.kind == "class"
    if inspect.isfunction(value):
        arguments = tuple(inspect.signature(value).parameters)[1 if "." in name else 0 :]
        return entry.kind == "function" and arguments in ([s.names for s in entry.signatures] or [()])
    if isinstance(value, property):
        return entry.kind == "property" and (entry.writable or value.fset is None)
    if inspect.isdatadescriptor(value):  # a slot
        return entry.kind == "property" and entry.writable
    return entry.kind == "value" and entry.number == int(value)


def test_the_fake_has_no_more_than_the_backend_uses(scans):
    """Nor less: a test that runs the backend on the fake would fail."""
    subclasses = {f"{s.base}.{m}" for scan in scans for s in scan.subclasses for m in MUST_DEFINE[s.base]}
    chains = [u.name.split(".") for scan in scans for u in [*scan.of_module, *scan.of_objects]]
    used = {".".join(chain[:2]) for chain in chains} | subclasses | {"ILogger.Severity"}
    for version in FLAVOURS.values():
        members = {n for n, value in _public(fake_tensorrt.make(version)) if "." in n and not hasattr(value, "_number")}
        assert not {m for m in members - used if not m.endswith(".name")}
