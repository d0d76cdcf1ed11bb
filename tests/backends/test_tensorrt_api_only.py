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
VERSIONS_OF_TABLE = {None: VERSIONS, "ONLY_BEFORE_11": ("10.3", "10.16"), "ONLY_FROM_11": ("11.4",)}
FLAVOURS = {"10.3": "10.3.0", "10.16": "10.16.1.11", "11.4": "11.4.0.106"}

# Members that the backend uses: a method with the names of its arguments (one overload, if there are several), or a
# property. Every version must have them, unless VERSIONS_WITH lists the versions.
READ, WRITE = "a property", "a property that can be set"
CALLS: dict[str, dict[str, str | tuple[str, ...]]] = {
    "ILogger": {"__init__": (), "log": ("severity", "msg")},
    "IProgressMonitor": {"__init__": ()},
    "Builder": {
        "__init__": ("logger",),
        "create_network": ("flags",),
        "create_builder_config": (),
        "create_optimization_profile": (),
        "build_serialized_network": ("network", "config"),
        "num_DLA_cores": READ,
        "max_DLA_batch_size": READ,
        "max_threads": WRITE,
        "platform_has_fast_fp16": READ,
    },
    "INetworkDefinition": {
        "num_inputs": READ,
        "num_outputs": READ,
        "num_layers": READ,
        "get_input": ("index",),
        "get_output": ("index",),
        "name": WRITE,
    },
    "ITensor": {"name": WRITE, "shape": WRITE, "dtype": READ},
    "OnnxParser": {
        "__init__": ("network", "logger"),
        "parse": ("model", "path"),
        "parse_from_file": ("model",),
        "num_errors": READ,
        "get_error": ("index",),
        "set_builder_config": ("builder_config",),
    },
    "ParserError": {
        "code": (),
        "desc": (),
        "file": (),
        "func": (),
        "line": (),
        "node": (),
        "node_name": (),
        "node_operator": (),
    },
    "IBuilderConfig": {
        "set_flag": ("flag",),
        "get_flag": ("flag",),
        "clear_flag": ("flag",),
        "set_memory_pool_limit": ("pool", "pool_size"),
        "add_optimization_profile": ("profile",),
        "create_timing_cache": ("serialized_timing_cache",),
        "set_timing_cache": ("cache", "ignore_mismatch"),
        "get_timing_cache": (),
        "builder_optimization_level": WRITE,
        "hardware_compatibility_level": WRITE,
        "progress_monitor": WRITE,
        "profiling_verbosity": WRITE,
        "default_device_type": WRITE,
        "DLA_core": WRITE,
        "max_aux_streams": WRITE,
        "avg_timing_iterations": WRITE,
    },
    "IOptimizationProfile": {"set_shape": ("input", "min", "opt", "max")},
    "ITimingCache": {"serialize": (), "combine": ("input_cache", "ignore_mismatch")},
    "IHostMemory": {"nbytes": READ},
    "Runtime": {
        "__init__": ("logger",),
        "deserialize_cuda_engine": ("serialized_engine",),
        "engine_host_code_allowed": WRITE,
        "DLA_core": WRITE,
        "max_threads": WRITE,
    },
    "ICudaEngine": {
        "num_io_tensors": READ,
        "num_layers": READ,
        "num_optimization_profiles": READ,
        "num_aux_streams": READ,
        "get_tensor_name": ("index",),
        "get_tensor_mode": ("name",),
        "get_tensor_dtype": ("name",),
        "get_tensor_shape": ("name",),
        "get_tensor_profile_shape": ("name", "profile_index"),
        "create_execution_context": ("strategy",),
        "create_engine_inspector": (),
        "device_memory_size": READ,
        "device_memory_size_v2": READ,
        "hardware_compatibility_level": READ,
    },
    "IExecutionContext": {
        "set_input_shape": ("name", "shape"),
        "get_tensor_shape": ("name",),
        "infer_shapes": (),
        "set_tensor_address": ("name", "memory"),
        "set_optimization_profile_async": ("profile_index", "stream_handle"),
        "set_aux_streams": ("aux_streams",),
        "execute_async_v3": ("stream_handle",),
        "profiler": WRITE,
        "enqueue_emits_profile": WRITE,
        "nvtx_verbosity": WRITE,
    },
    "EngineInspector": {"get_engine_information": ("format",)},
}

# Members that only some versions have, and members that are easily mistaken for such.
VERSIONS_WITH = {
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": VERSIONS,  # without effect from 11 on, but not an error
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": ("10.3", "10.16"),
    "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY": ("10.16", "11.4"),
    "Builder.platform_has_fast_fp16": ("10.3", "10.16"),
    "OnnxParser.set_builder_config": ("10.16", "11.4"),
    "ICudaEngine.device_memory_size": ("10.3", "10.16"),
    "ICudaEngine.device_memory_size_v2": VERSIONS,
    "Runtime.get_engine_validity": (),
}

# Everything that 11 removed from the classes that a backend might use, so that a newer version shows its changes.
REMOVED_CLASSES = [
    "CalibrationAlgoType",
    "IAlgorithm",
    "IAlgorithmContext",
    "IAlgorithmIOInfo",
    "IAlgorithmSelector",
    "IAlgorithmVariant",
    "IInt8Calibrator",
    "IInt8EntropyCalibrator",
    "IInt8EntropyCalibrator2",
    "IInt8LegacyCalibrator",
    "IInt8MinMaxCalibrator",
    "IStreamReader",
    "QuantizationFlag",
    "SubGraphCollection",
]
REMOVED_MEMBERS = {
    "Builder": "platform_has_fast_fp16 platform_has_fast_int8 platform_has_tf32",
    "BuilderFlag": "BF16 FP16 FP4 FP8 INT4 INT8 OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS "
    "REJECT_EMPTY_ALGORITHMS WEIGHTLESS",
    "IBuilderConfig": "algorithm_selector clear_quantization_flag get_calibration_profile get_quantization_flag "
    "int8_calibrator quantization_flags set_calibration_profile set_quantization_flag",
    "ICudaEngine": "create_execution_context_without_device_memory device_memory_size get_device_memory_size_for_profile "
    "has_implicit_batch_dimension minimum_weight_streaming_budget weight_streaming_budget",
    "IExecutionContext": "all_shape_inputs_specified",
    "ILayer": "output_type_is_set precision precision_is_set reset_output_type reset_precision set_output_type",
    "ITensor": "dynamic_range reset_dynamic_range set_dynamic_range",
    "NetworkDefinitionCreationFlag": "EXPLICIT_BATCH",
    "OnnxParser": "parse_with_weight_descriptors supports_model",
    "PreviewFeature": "MULTIDEVICE_RUNTIME_10_16 PROFILE_SHARING_0806",
    "TacticSource": "CUBLAS CUBLAS_LT CUDNN",
}

# Enumeration values that 11 changed: code with the number instead of the name would select another option there.
CHANGED_NUMBERS = {
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": (1, 1, 0),
    "BuilderFlag.VERSION_COMPATIBLE": (13, 13, 12),
    "BuilderFlag.EXCLUDE_LEAN_RUNTIME": (14, 14, 13),
    "BuilderFlag.STRIP_PLAN": (19, 19, 18),
    "TacticSource.JIT_CONVOLUTIONS": (4, 4, 1),
}

# Methods that a subclass in Python must define: without them the bindings print an error, and a monitor cancels the build.
MUST_DEFINE = {
    "ILogger": ("log",),
    "IProgressMonitor": ("phase_start", "step_complete", "phase_finish"),
    "IProfiler": ("report_layer_time",),
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
    """Return the uses in the text that a version running it lacks or does not accept."""
    uses = [*scan.of_module, *scan.of_objects]
    found = [p for use in uses for p in _problems_of(use, apis)]
    unknown = [n for names in scan.tables.values() for n in names if n not in scan.functions]
    return found + [f"a version table names {n}, which is no function here" for n in unknown]


def _problems_of(use: Use, apis: dict[str, Api]) -> list[str]:
    versions = [v for v in VERSIONS_OF_TABLE[use.only] if v in apis]
    missing = {v: apis[v].missing(use.name) for v in versions}
    if use.guarded and (not all(missing.values()) or len(apis) < len(VERSIONS)):
        versions = [v for v in versions if missing[v] is None]
    texts = [f"has no {missing[v]}" if missing[v] else _misuse(use, apis[v]) for v in versions]
    return [f"{use.where}: TensorRT {v} {t}" for v, t in zip(versions, texts, strict=True) if t]


def _misuse(use: Use, api: Api) -> str | None:
    """Return how the use contradicts the API, or None."""
    name, entry = _last_known(use.name, api)
    if name != use.name or use.guarded:
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
        ("getattr(trt.BuilderFlag, 'FP16')", r"11.4 has no BuilderFlag.FP16"),
        ("hasattr(trt.BuilderFlag, 'FP61')", r"10.3 has no BuilderFlag.FP61"),
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
        ("ONLY_BEFORE_11 = ('h',)\ndef f(): trt.BuilderFlag.FP16", r"11.4 has no BuilderFlag.FP16"),
        ("ONLY_BEFORE_11 = ('h',)", r"names h, which is no function here"),
        ("if hasattr(trt.BuilderFlag, 'FP16'): trt.BuilderFlag.INT8", r"11.4 has no BuilderFlag.INT8"),
        ("if hasattr(trt.BuilderFlag, 'FP16'): pass\nelse: trt.BuilderFlag.FP16", r"11.4 has no BuilderFlag.FP16"),
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
        "if hasattr(trt.BuilderFlag, 'FP16'): trt.BuilderFlag.FP16",
        "x = trt.BuilderFlag.FP16 if hasattr(trt.BuilderFlag, 'FP16') else None",
        "getattr(trt.BuilderFlag, 'FP16', None)",
        "ONLY_BEFORE_11 = ('f',)\ndef f(builder): builder.platform_has_fast_fp16",
        "ONLY_FROM_11 = ('A',)\nclass A:\n  def f(self, profile): profile.profile_stream = 1",
    ],
)
def test_the_scan_accepts_valid_code(apis, text):
    assert problems_of_text(text, apis) == []


def test_the_table_of_calls_matches_the_bindings(apis, version):
    for owner, members in CALLS.items():
        for member, expected in members.items():
            name = f"{owner}.{member}"
            if version not in VERSIONS_WITH.get(name, VERSIONS):
                continue
            entry = apis[version].entries[name]
            if isinstance(expected, tuple):
                assert expected in [s.names for s in entry.signatures], name
            else:
                assert entry.kind == "property", name
                assert entry.writable or expected != WRITE, name


def test_return_types_match_the_bindings(apis, version):
    declared = {n: {s.returns for s in apis[version].entries[n].signatures} for n in trt_scan.RETURNS}
    assert declared == {n: {kind} for n, kind in trt_scan.RETURNS.items()}


@pytest.mark.parametrize("name", VERSIONS_WITH)
def test_the_versions_of_a_member_match_the_bindings(all_apis, name):
    assert tuple(v for v in VERSIONS if all_apis[v].missing(name) is None) == VERSIONS_WITH[name]


def test_the_members_removed_in_11_match_the_bindings(all_apis):
    gone = {n for n in all_apis["10.16"].entries if n not in all_apis["11.4"].entries}
    assert {n for n in gone if "." not in n} == set(REMOVED_CLASSES)
    for owner in {*REMOVED_MEMBERS, *trt_scan.KINDS.values(), "MemoryPoolType", "DataType", "ProfilingVerbosity"}:
        members = {n.split(".")[1] for n in gone if n.startswith(f"{owner}.")}
        assert members == set(REMOVED_MEMBERS.get(owner, "").split()), owner
    assert not {n for n in all_apis["10.3"].entries if n not in all_apis["10.16"].entries}


@pytest.mark.parametrize("name", CHANGED_NUMBERS)
def test_enumeration_values_match_the_bindings(apis, name, version):
    assert apis[version].entries[name].number == CHANGED_NUMBERS[name][VERSIONS.index(version)]


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


def test_names_that_the_backend_stores_as_text_exist(apis, version):
    members = apis[version].entries
    levels = [f"HardwareCompatibilityLevel.{name}" for name in tensorrt_build._LEVELS.values()]
    assert [n for n in levels if n not in members and n not in VERSIONS_WITH] == []
    assert [n for n in tensorrt._DTYPES if f"DataType.{n}" not in members] == []


def test_the_table_of_calls_lists_every_use_of_the_backend(apis, scans):
    def listed(use: Use) -> bool:
        owner, member, *_ = use.name.split(".")
        return member in CALLS.get(owner, {})

    uses = [use for scan in scans for use in scan.of_objects]
    assert uses, (
        "the scan found no use of any TensorRT object: do their variables still have the names of trt_scan.KINDS?"
    )
    missing = [f"{u.where}: {u.name} is not in CALLS" for u in uses if not listed(u)]
    assert not missing, "\n".join(missing)


def test_members_removed_in_11_are_used_only_before_11(scans):
    removed = {*REMOVED_CLASSES} | {f"{c}.{m}" for c, members in REMOVED_MEMBERS.items() for m in members.split()}
    uses = [use for scan in scans for use in [*scan.of_module, *scan.of_objects]]
    of_removed = [u for u in uses if any(u.name == r or u.name.startswith(f"{r}.") for r in removed)]
    unguarded = [f"{u.where}: {u.name}" for u in of_removed if u.only != "ONLY_BEFORE_11" and not u.guarded]
    assert not unguarded, "\n".join(unguarded)


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


def test_the_fake_has_every_member_of_the_tables(apis, version):
    fake = fake_tensorrt.make(FLAVOURS[version])
    named = [f"{owner}.{member}" for owner, members in CALLS.items() for member in members] + list(VERSIONS_WITH)
    for name in named:
        owner, member = name.split(".")
        assert hasattr(getattr(fake, owner), member) == (apis[version].missing(name) is None), name
