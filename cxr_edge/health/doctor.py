"""Doctor: what works on this machine, what is missing, and one line that mends each.

A bundle's name and an engines folder come in, a `DoctorReport` of items in groups comes out. It needs neither a bundle nor
engines nor any package but Python's own to say what is wrong: each check imports what it needs, and whatever a check raises is
its own failed item. Nothing is written but a temporary file that is removed again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from cxr_edge import defects
from cxr_edge.health.checks import Checks, Finding, Item, failed, import_reason, passed, run_check, skipped
from cxr_edge.health.machine import check_folder, check_telemetry, check_temporary_folder, machine_checks
from cxr_edge.health.software import EXTRAS, check_core, check_extra, check_processor, python_checks, runtime_checks
from cxr_edge.version import __version__

if TYPE_CHECKING:
    from cxr_edge.bundle import Bundle
    from cxr_edge.health.self_test import SelfTestReport

__all__ = ["GROUPS", "DoctorReport", "DoctorSettings", "GroupedItem", "examine"]

GROUPS = ("python", "core", "runtimes", "decoders", "extras", "machine", "folders", "bundle", "privacy", "self-test")


@dataclass(frozen=True, kw_only=True)
class DoctorSettings:
    """Bundle and engines to examine."""

    bundle: str = "starter"  # as of `Bundle.open`
    engines_dir: Path | None = None
    backend: str = "auto"
    threads: int = 1
    time_factor: float = 3.0  # of the self-test


@dataclass(frozen=True, kw_only=True)
class GroupedItem:
    """A check with the group that it is shown in."""

    group: str  # one of GROUPS
    item: Item

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of the item."""
        return {"group": self.group, **self.item.as_json()}


@dataclass(frozen=True, kw_only=True)
class DoctorReport:
    """Result of an examination."""

    items: tuple[GroupedItem, ...]
    self_test: SelfTestReport | None  # None while there are no engines to test
    seconds: float

    @property
    def usable(self) -> bool:
        """True if nothing that screening needs failed."""
        return all(own.item.status != "failed" for own in self.items)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of the report (docs/self-test.md)."""
        return {
            "usable": self.usable,
            "cxr_edge": __version__,
            "seconds": round(self.seconds, 4),
            "items": [own.as_json() for own in self.items],
            "self_test": None if self.self_test is None else self.self_test.as_json(),
        }

    def lines(self) -> list[str]:
        """Return the groups, line by line; the last line has the verdict."""
        lines: list[str] = []
        for group in GROUPS:
            own = [g.item for g in self.items if g.group == group]
            lines += [f"{group}:", *(line for item in own for line in _item_lines(item))] if own else []
        counts = {status: sum(own.item.status == status for own in self.items) for status in ("failed", "missing")}
        verdict = "screening works here" if self.usable else "screening does not work here"
        return [
            *lines,
            f"doctor: {verdict} ({counts['failed']} failed, {counts['missing']} missing, {self.seconds:.1f} s)",
        ]


def _item_lines(item: Item) -> list[str]:
    found = item.finding
    word = {"passed": "ok", "failed": "FAILED", "missing": "missing", "skipped": "-"}[found.status]
    texts = [line for text in (found.figure, found.message) for line in text.splitlines()] or [""]
    return [f"  {item.name:<26} {word:<8} {texts[0]}".rstrip(), *(f"{'':38}{line}" for line in texts[1:])]


def examine(settings: DoctorSettings | None = None) -> DoctorReport:
    """Run every check, in the order of the groups. Raises nothing for what it finds."""
    start, doctor = perf_counter(), _Doctor(settings or DoctorSettings())
    items = tuple(GroupedItem(group=group, item=item) for group in GROUPS for item in _items(doctor, group))
    return DoctorReport(items=items, self_test=doctor.self_test, seconds=perf_counter() - start)


def _items(doctor: _Doctor, group: str) -> list[Item]:
    """Run the checks of a group; if they cannot even be listed, that is the group's one item."""
    try:
        checks = doctor.checks(group)
    except Exception as error:
        reason = import_reason(error) if isinstance(error, ImportError) else defects.reason(error)
        return [run_check(group, lambda: failed(reason))]
    return [run_check(name, check) for name, check in checks]


class _Doctor:
    """One examination: its checks by group, and what later ones take from earlier ones."""

    def __init__(self, settings: DoctorSettings) -> None:
        self._settings = settings
        self._bundle: Bundle | None = None
        self.self_test: SelfTestReport | None = None

    def checks(self, group: str) -> Checks:
        """Return the checks of a group by name."""
        groups: dict[str, Callable[[], Checks]] = {
            "python": python_checks,
            "core": lambda: [("native core", check_core), ("processor", check_processor)],
            "runtimes": runtime_checks,
            "decoders": self._decoder_checks,
            "extras": lambda: [(f"cxr-edge[{name}]", lambda name=name: check_extra(name)) for name in EXTRAS],  # type: ignore[misc]
            "machine": machine_checks,
            "folders": self._folder_checks,
            "bundle": lambda: [("bundle", self._check_bundle), ("engines", self._check_engines)],
            "privacy": lambda: [("telemetry", check_telemetry)],
            "self-test": lambda: [("self-test", self._check_self_test)],
        }
        return groups[group]()

    def _decoder_checks(self) -> Checks:
        from cxr_edge.compiler.decoded_files import DRAWN_FILES

        return [(drawn.name.rsplit(".", 1)[0], lambda drawn=drawn: self._check_decoder(drawn)) for drawn in DRAWN_FILES]  # type: ignore[misc]

    def _check_decoder(self, drawn: Any) -> Finding:
        """Decode the bundle's file of that format, whose pixels are known; without one, a file that is drawn now."""
        from cxr_edge.bundle.decode_check import decode_result, package_versions
        from cxr_edge.decoding.decode import decode_bytes
        from cxr_edge.decoding.formats import identify_format

        bundle = self._opened()
        kept = [] if bundle is None else [f for f in bundle.manifest.decoded_files if f.file.path.endswith(drawn.name)]
        if bundle is not None and kept:
            result = decode_result(bundle, kept[0])
            return (
                passed(f"{drawn.content}: the known pixels") if result.difference is None else failed(result.describe())
            )
        try:
            data = drawn.draw()
            decode_bytes(data, source=drawn.name)
        except Exception as error:
            packages = ("imagecodecs", "pydicom", "simplejpeg", "tifffile", "opencv-python-headless")
            names = ", ".join(package_versions(packages))
            return failed(
                f"{drawn.content} cannot be decoded ({type(error).__name__}: {error}; {names}): pip install --force-reinstall "
                f"{' '.join(packages)}"
            )
        return passed(f"{drawn.content}: decoded by {', '.join(package_versions(identify_format(data).packages))}")

    def _folder_checks(self) -> Checks:
        return [
            ("engines folder", self._check_engines_folder),
            ("temporary files", check_temporary_folder),
            ("state and logs", lambda: check_folder(Path.cwd(), "give --drift-state and logs another folder")),
            ("cache", lambda: skipped("cxr-edge keeps none")),
        ]

    def _check_engines_folder(self) -> Finding:
        bundle = self._opened()
        if bundle is None and self._settings.engines_dir is None:
            return skipped("there is no bundle to keep engines in")
        from cxr_edge.engines import engines_root

        folder = self._settings.engines_dir if bundle is None else engines_root(bundle, self._settings.engines_dir)
        assert folder is not None
        return check_folder(folder, "build with --engines DIR, and give it to screen too", needed=not folder.is_dir())

    def _opened(self) -> Bundle | None:
        """Return the bundle, or None if it cannot be opened; `_check_bundle` says why."""
        if self._bundle is None:
            from cxr_edge.bundle import Bundle
            from cxr_edge.errors import CxrEdgeError

            try:
                self._bundle = Bundle.open(self._settings.bundle)
            except (CxrEdgeError, OSError):
                return None
        return self._bundle

    def _check_bundle(self) -> Finding:
        from cxr_edge.bundle import Bundle

        bundle = Bundle.open(self._settings.bundle)
        return passed(f"{bundle.manifest.name} {bundle.manifest.version}, unaltered, digest {bundle.digest[:12]}")

    def _check_engines(self) -> Finding:
        bundle = self._opened()
        if bundle is None:
            return skipped("there is no bundle to look for engines of")
        from cxr_edge import engines
        from cxr_edge.errors import EngineError

        own = self._settings
        try:
            loaded = engines.load(bundle, own.engines_dir, backend=own.backend, threads=own.threads, whole=True)
        except EngineError as error:
            return failed(str(error))
        return passed(loaded.describe())

    def _check_self_test(self) -> Finding:
        from cxr_edge.health.self_test import SelfTestOptions, run_from

        own = self._settings
        options = SelfTestOptions(time_factor=own.time_factor)
        report, screener = run_from(
            own.bundle, own.engines_dir, backend=own.backend, threads=own.threads, options=options
        )
        if screener is None:
            return skipped("there are no bundle and engines to test")
        self.self_test = report
        verdict = report.lines()[-1].removeprefix("self-test: ")
        if report.passed:
            return passed(verdict)
        wrong = [f"{item.name}: {item.finding.message.splitlines()[0]}" for item in report.failures]
        return failed("\n".join([*wrong, "cxr-edge self-test shows all items"]), verdict)
