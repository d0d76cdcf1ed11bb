"""File of a gate set: a header in JSON and a compressed payload in; truth, the reference's answers and images out.

It holds real images that may travel, or a surrogate (`surrogate`). The SHA-256 of all pixels is in the header and is compared,
sizes are checked before anything is allocated, and nothing is unpickled. docs/gate.md describes the format.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.bundle.manifest import GateKind
from cxr_edge.bundle.surrogate import SurrogateModel, SurrogateSize, draw_images
from cxr_edge.errors import BundleError
from cxr_edge.specs.json_fields import (
    FieldError,
    field_names,
    is_share,
    parse,
    read_field,
    read_list,
    require,
    require_integer,
    require_keys,
    require_number,
    require_text,
)

__all__ = ["MOST_IMAGES", "SCHEMA", "GateFile", "Truth", "damaged", "pack_images", "pack_surrogate"]

SCHEMA = "cxr-edge-gate/1"
MOST_IMAGES, MOST_PIXELS = 2000, 256 * 1024 * 1024

Pixels = npt.NDArray[np.uint8]
Truth = int | tuple[int, ...] | None  # index of the label; of findings 1 or 0 for each label; None if it is not known

_MOST_HEADER_BYTES = 8 * 1024 * 1024
_MOST_FILE_BYTES = MOST_PIXELS + _MOST_HEADER_BYTES
_AGAIN = "copy the whole bundle again from where it came, or make its gate set again"


@dataclass(frozen=True, kw_only=True)
class GateFile:
    """Content of the file: a header in JSON, and the compressed payload."""

    labels: tuple[str, ...]
    truth: tuple[Truth, ...]
    probabilities: tuple[tuple[float, ...], ...]  # of the fp32 reference, one row for each image
    decisions: tuple[str, ...]  # likewise, as `Screening.forced_decision`
    pixels_sha256: str  # of all pixels, image after image
    surrogate: SurrogateSize | None  # None: real images
    sizes: tuple[tuple[int, int], ...]  # (width, height) of real images; empty for a surrogate
    payload: bytes

    def __post_init__(self) -> None:
        n = len(self.truth)
        require(1 <= n <= MOST_IMAGES, "truth", f"a list of 1 to {MOST_IMAGES}", f"{n} items")
        for key in ("probabilities", "decisions"):
            found = len(getattr(self, key))
            require(found == n, key, f"a list of {n}, one for each image", f"{found} items")
        for i, label in enumerate(self.labels):
            require_text(label, f"labels[{i}]", longest=64)
        for i, row in enumerate(self.probabilities):
            require(len(row) == len(self.labels), f"probabilities[{i}]", f"{len(self.labels)} numbers", row)
            for share in row:
                require_number(share, f"probabilities[{i}]", "numbers from 0 to 1", is_share)
        for i, value in enumerate(self.truth):
            require(
                _is_truth(value, len(self.labels)), f"truth[{i}]", "a label's index, 0 or 1 of each, or null", value
            )
        for i, decision in enumerate(self.decisions):
            require_text(decision, f"decisions[{i}]")
        self._check_sizes(n)

    def _check_sizes(self, n: int) -> None:
        if self.surrogate is not None:
            require(not self.sizes, "sizes", "empty for a surrogate", self.sizes)
            require(self.surrogate.draws == n, "surrogate.draws", f"{n}, one for each image", self.surrogate.draws)
            labels = len(self.labels)
            require(self.surrogate.labels == labels, "surrogate.labels", f"{labels}", self.surrogate.labels)
            for i, value in enumerate(self.truth):
                require(isinstance(value, int), f"truth[{i}]", "the index of the label that it was drawn from", value)
        else:
            require(len(self.sizes) == n, "sizes", f"a list of {n}", f"{len(self.sizes)} items")
            for i, size in enumerate(self.sizes):
                require(len(size) == 2, f"sizes[{i}]", "[width, height]", size)
                for side in size:
                    require_integer(side, f"sizes[{i}]", least=1)
        require(self.pixels <= MOST_PIXELS, "sizes", f"of {MOST_PIXELS} pixels at most", self.pixels)

    @property
    def kind(self) -> GateKind:
        return "images" if self.surrogate is None else "surrogate"

    def _drawn_from(self) -> list[int]:
        return [value for value in self.truth if isinstance(value, int)]

    @property
    def pixels(self) -> int:
        """Number of pixels of all images."""
        if self.surrogate is not None:
            return self.surrogate.draws * self.surrogate.side_px**2
        return sum(prod(size) for size in self.sizes)

    def images(self) -> list[Pixels]:
        """Return the images (height, width). Raises FieldError for a payload that does not give them."""
        if self.surrogate is not None:
            content = _inflate(self.payload, self.surrogate.bytes)
            model = SurrogateModel.of_bytes(content, self.surrogate)
            images = list(draw_images(model, self._drawn_from()))
        else:
            flat = np.frombuffer(_inflate(self.payload, self.pixels), np.uint8)
            ends = np.cumsum([prod(size) for size in self.sizes])
            images = [own.reshape(size[::-1]) for own, size in zip(np.split(flat, ends[:-1]), self.sizes, strict=True)]
        found = _digest_of(images)
        if found != self.pixels_sha256:
            raise FieldError(
                "pixels_sha256", f"is {self.pixels_sha256}, the pixels that this machine makes have {found}"
            )
        return images

    def answered(self, probabilities: npt.NDArray[np.floating], decisions: Sequence[str]) -> GateFile:
        """Return the same images with other answers of the reference."""
        rows = tuple(tuple(round(float(p), 6) for p in row) for row in probabilities)
        return replace(self, probabilities=rows, decisions=tuple(decisions))

    def write(self, file: Path) -> None:
        """Write the file."""
        header: dict[str, Any] = {"schema": SCHEMA}
        header |= {name: getattr(self, name) for name in field_names(type(self)) if name != "payload"}
        header["surrogate"] = None if self.surrogate is None else self.surrogate.as_json()
        text = json.dumps(header, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        file.write_bytes(text.encode() + b"\n" + self.payload)

    @classmethod
    def read(cls, file: Path) -> GateFile:
        """Read a file that `write` wrote; pixels are made by `images`. Raises BundleError for one that is not valid."""
        try:
            size = file.stat().st_size
            if size > _MOST_FILE_BYTES:
                raise BundleError(f"{file} has {size} bytes, a gate set at most {_MOST_FILE_BYTES}: {_AGAIN}")
            head, _, payload = file.read_bytes().partition(b"\n")
            return cls._of(parse(head[:_MOST_HEADER_BYTES]), payload)
        except FieldError as error:
            raise damaged(file, error) from None
        except OSError as error:
            raise BundleError(f"{file} cannot be read ({error.strerror}): check its permissions") from None

    @classmethod
    def _of(cls, header: object, payload: bytes) -> GateFile:
        names = [name for name in field_names(cls) if name != "payload"]
        found = require_keys(header, ["schema", *names])
        require(found["schema"] == SCHEMA, "schema", repr(SCHEMA), found["schema"])
        require_text(found["pixels_sha256"], "pixels_sha256", longest=64)
        return cls(
            labels=read_list(found, "labels"),
            truth=read_list(found, "truth", lambda v: tuple(v) if isinstance(v, list) else v),
            probabilities=read_list(found, "probabilities", _row),
            decisions=read_list(found, "decisions"),
            pixels_sha256=found["pixels_sha256"],
            surrogate=read_field(found, "surrogate", lambda v: None if v is None else SurrogateSize.from_json(v)),
            sizes=read_list(found, "sizes", _row),
            payload=payload,
        )


def pack_images(
    images: Sequence[Pixels],
    truth: Sequence[Truth],
    labels: Sequence[str],
    probabilities: npt.NDArray[np.floating],
    decisions: Sequence[str],
) -> GateFile:
    """Return the gate set of real images (height, width)."""
    empty = GateFile(
        labels=tuple(labels),
        truth=tuple(truth),
        probabilities=((0.0,) * len(labels),) * len(images),
        decisions=tuple(decisions),
        pixels_sha256=_digest_of(images),
        surrogate=None,
        sizes=tuple((p.shape[1], p.shape[0]) for p in images),
        payload=zlib.compress(b"".join(np.ascontiguousarray(p).tobytes() for p in images), 9),
    )
    return empty.answered(probabilities, decisions)


def _digest_of(images: Sequence[Pixels]) -> str:
    """Return the SHA-256 of all pixels, image after image."""
    digest = hashlib.sha256()
    for pixels in images:
        digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def pack_surrogate(
    model: SurrogateModel,
    truth: Sequence[int],
    labels: Sequence[str],
    probabilities: npt.NDArray[np.floating],
    decisions: Sequence[str],
) -> GateFile:
    """Return the gate set of a surrogate. truth: index of the label of each draw."""
    empty = GateFile(
        labels=tuple(labels),
        truth=tuple(truth),
        probabilities=((0.0,) * len(labels),) * len(truth),
        decisions=tuple(decisions),
        pixels_sha256=_digest_of(list(draw_images(model, truth))),
        surrogate=model.size,
        sizes=(),
        payload=zlib.compress(model.as_bytes(), 9),
    )
    return empty.answered(probabilities, decisions)


def _inflate(payload: bytes, size: int) -> bytes:
    """Return the content of exactly `size` bytes, never more. Raises FieldError for any other."""
    reader = zlib.decompressobj()
    try:
        content = reader.decompress(payload, size)
        rest = reader.decompress(reader.unconsumed_tail, 1)
    except zlib.error as error:
        raise FieldError("", f"has a payload that cannot be decompressed: {error}") from None
    if len(content) != size or rest or not reader.eof or reader.unused_data:
        raise FieldError("", f"must have a payload of {size} bytes, and it has {'more' if rest else 'others'}")
    return content


def _row(value: object) -> tuple[Any, ...]:
    require(isinstance(value, list), "", "a list", value)
    return tuple(value) if isinstance(value, list) else ()


def _is_truth(value: object, labels: int) -> bool:
    if isinstance(value, tuple):
        return len(value) == labels and all(type(v) is int and v in (0, 1) for v in value)
    return value is None or (type(value) is int and 0 <= value < labels)


def damaged(file: Path, error: FieldError) -> BundleError:
    """Return the error for a file with an invalid key."""
    return BundleError(f"{file}: {error.key or 'the whole file'} {error.message}; {_AGAIN}")
