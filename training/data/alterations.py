"""Alterations that a bundle refuses: a good frontal image in, the same turned, mirrored, cut off or photographed out.

The checker network is trained and measured on these: real images that are turned, photographed or cut off are rare in the
collections. `mildly` makes the changes that are no reason to refuse an image. Every change takes gray pixels (H, W) of any size
and random numbers, and lengths are shares of the image's sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

__all__ = [
    "ALTERATIONS",
    "Alteration",
    "Box",
    "altered",
    "cut_off",
    "exposed",
    "inverted",
    "marked",
    "mildly",
    "mirrored",
    "photographed",
    "turned",
]

Gray = npt.NDArray[np.uint8]
Rng = np.random.Generator

# Named as the codes of `cxr_edge.specs.checks`; in this order where there are several.
Alteration = Literal["cut_off", "marks", "mirrored", "inverted", "turned", "photo"]
ALTERATIONS: tuple[Alteration, ...] = get_args(Alteration)

_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_PLAIN)
_WORDS = (
    "R",
    "L",
    "AP",
    "PA",
    "SUPINE",
    "PORTABLE",
    "ERECT",
    "10:42",
    "2020-04-11",
    "12 cm",
    "A",
    "B",
    "Fig. 2",
    "ID 40721",
)


@dataclass(frozen=True, kw_only=True)
class Box:
    """The box of both lungs, as shares of the image's width and height."""

    x0: float
    y0: float
    x1: float
    y1: float

    def pixels(self, image: Gray) -> tuple[int, int, int, int]:
        """Return (x0, y0, x1, y1) in pixels of the image."""
        height, width = image.shape
        return round(self.x0 * width), round(self.y0 * height), round(self.x1 * width), round(self.y1 * height)

    def cropped(self, crop: Box) -> Box:
        """Return the box in a part of the image; parts outside are cut."""
        width, height = crop.x1 - crop.x0, crop.y1 - crop.y0
        xs = np.clip([(x - crop.x0) / width for x in (self.x0, self.x1)], 0, 1)
        ys = np.clip([(y - crop.y0) / height for y in (self.y0, self.y1)], 0, 1)
        return Box(x0=float(xs[0]), y0=float(ys[0]), x1=float(xs[1]), y1=float(ys[1]))


def altered(image: Gray, box: Box, kinds: frozenset[Alteration], rng: Rng) -> Gray:
    """Return the image with all these alterations."""
    if "cut_off" in kinds:
        image, box = cut_off(image, box, rng)
    if "marks" in kinds:
        image = marked(image, box, rng)
    if "mirrored" in kinds:
        image = mirrored(image)
    if "inverted" in kinds:
        image = inverted(image)
    if "turned" in kinds:
        image = turned(image, int(rng.integers(1, 4)))
    return photographed(image, rng) if "photo" in kinds else image


def inverted(image: Gray) -> Gray:
    """Exchange black and white."""
    return np.asarray(255 - image, dtype=np.uint8)


def turned(image: Gray, quarters: int) -> Gray:
    """Turn by quarters of a full turn, counter-clockwise."""
    return np.ascontiguousarray(np.rot90(image, quarters))


def mirrored(image: Gray) -> Gray:
    """Exchange left and right."""
    return np.ascontiguousarray(image[:, ::-1])


def cut_off(image: Gray, box: Box, rng: Rng) -> tuple[Gray, Box]:
    """Cut off a part of the lungs, at one side: 0.15 to 0.45 of the box's width, or 0.2 to 0.45 of its height.

    Returns the rest and the lungs' box in it.
    """
    side = ("x0", "x1", "y0", "y1")[rng.integers(4)]
    share = rng.uniform(0.15, 0.45) if side[0] == "x" else rng.uniform(0.2, 0.45)
    length = box.x1 - box.x0 if side[0] == "x" else box.y1 - box.y0
    edges = {"x0": 0.0, "y0": 0.0, "x1": 1.0, "y1": 1.0}
    step = share * length
    edges[side] = getattr(box, side) + (step if side[1] == "0" else -step)
    return _crop(image, box, Box(**edges))


def mildly(image: Gray, box: Box, rng: Rng) -> tuple[Gray, Box]:
    """Change what is no reason for a refusal: crop and border outside of the lungs, letters in the corners.

    `exposed` changes the rest. Returns the image and the lungs' box in it.
    """
    if rng.random() < 0.4:
        image, box = _mild_crop(image, box, rng)
    if rng.random() < 0.35:
        image = _corner_letters(image, box, rng)
    if rng.random() < 0.25:
        image, box = _border(image, box, rng)
    return image, box


def exposed(image: Gray, rng: Rng) -> Gray:
    """Rotate by up to 10 degrees, change the exposure, and compress as JPEG: no reason for a refusal either."""
    height, width = image.shape
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-10, 10), 1.0)
    rotated = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
    curve = (255 * np.linspace(0, 1, 256) ** np.exp(rng.uniform(-0.4, 0.4))).astype(np.uint8)
    _, coded = cv2.imencode(".jpg", curve[rotated], [cv2.IMWRITE_JPEG_QUALITY, int(rng.uniform(40, 90))])
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE), dtype=np.uint8)


def marked(image: Gray, box: Box, rng: Rng) -> Gray:
    """Draw one to three texts, arrows, circles or rectangles inside the lungs."""
    image = image.copy()
    x0, y0, x1, y1 = box.pixels(image)
    width, height = max(x1 - x0, 8), max(y1 - y0, 8)
    for _ in range(rng.integers(1, 4)):
        # In a lung, not in the middle between them.
        across = rng.uniform(0.08, 0.36) + (0.5 if rng.random() < 0.5 else 0.0)
        x, y = int(x0 + across * width), int(y0 + rng.uniform(0.2, 0.8) * height)
        _draw_mark(image, x, y, min(width, height), rng)
    return image


def photographed(image: Gray, rng: Rng) -> Gray:
    """Photograph the film, or the screen, that shows the image: perspective, surroundings, light, moire and blur."""
    height, width = image.shape
    screen = rng.random() < 0.6
    if screen:
        image = _with_frame(image, rng)
    scene = _surroundings(height, width, rng)
    corners = _quadrilateral(height, width, rng)
    source = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32) * np.array(image.shape[::-1], np.float32)
    matrix = cv2.getPerspectiveTransform(source, corners.astype(np.float32))
    shown = cv2.warpPerspective(_contrast(image, rng), matrix, (width, height), flags=cv2.INTER_AREA)
    inside = cv2.warpPerspective(np.full(image.shape, 255, np.uint8), matrix, (width, height))
    photo = np.where(inside > 127, shown, scene).astype(np.float32)
    if screen and rng.random() < 0.7:
        photo *= _moire(height, width, rng)
    photo *= _light(height, width, rng)
    if rng.random() < 0.7:
        photo += _glare(height, width, rng)
    blurred = cv2.GaussianBlur(photo, (0, 0), rng.uniform(0.001, 0.006) * width)
    noisy = blurred + rng.normal(0, rng.uniform(0, 4), photo.shape)
    return np.asarray(np.clip(noisy, 0, 255), dtype=np.uint8)


def _crop(image: Gray, box: Box, crop: Box) -> tuple[Gray, Box]:
    x0, y0, x1, y1 = crop.pixels(image)
    part = image[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    return np.ascontiguousarray(part), box.cropped(crop)


def _mild_crop(image: Gray, box: Box, rng: Rng) -> tuple[Gray, Box]:
    keep = rng.uniform(0.35, 1.0, 4)  # share of the margin around the lungs
    crop = Box(
        x0=box.x0 * (1 - keep[0]),
        y0=box.y0 * (1 - keep[1]),
        x1=1 - (1 - box.x1) * (1 - keep[2]),
        y1=1 - (1 - box.y1) * (1 - keep[3]),
    )
    return _crop(image, box, crop)


def _border(image: Gray, box: Box, rng: Rng) -> tuple[Gray, Box]:
    height, width = image.shape
    left, right = (rng.uniform(0, 0.12, 2) * width).astype(int)
    top, bottom = (rng.uniform(0, 0.12, 2) * height).astype(int)
    value = int(rng.choice([0, 0, 255, rng.uniform(0, 255)]))
    framed = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=[value])
    crop = Box(
        x0=-left / width, y0=-top / height, x1=1 + right / width, y1=1 + bottom / height
    )  # a crop larger than the image
    return np.asarray(framed, dtype=np.uint8), box.cropped(crop)


def _corner_letters(image: Gray, box: Box, rng: Rng) -> Gray:
    """Write a word or two where it covers no lung: above, below or beside them."""
    image = image.copy()
    height, width = image.shape
    for _ in range(rng.integers(1, 3)):
        size = rng.uniform(0.025, 0.06) * height
        word = str(_WORDS[rng.integers(len(_WORDS))])
        if rng.random() < 0.5:
            y = (
                rng.uniform(0.0, max(box.y0 - 0.02, 0.01))
                if rng.random() < 0.5
                else rng.uniform(min(box.y1 + 0.04, 0.98), 1)
            )
            x = rng.uniform(0, 0.85)
        else:
            word = word[:2]
            x = (
                rng.uniform(0.0, max(box.x0 - 0.06, 0.01))
                if rng.random() < 0.5
                else rng.uniform(min(box.x1, 0.95), 0.97)
            )
            y = rng.uniform(0.05, 0.95)
        if box.y0 < y < box.y1 and box.x0 - 0.05 < x < box.x1:
            continue
        _write(image, word, int(x * width), int(y * height), size, rng)
    return image


def _draw_mark(image: Gray, x: int, y: int, length: int, rng: Rng) -> None:
    kind = rng.integers(5)
    value, thick = int(rng.choice([0, 255, 255, 220])), max(1, round(length * rng.uniform(0.008, 0.02)))
    if kind <= 1:
        _write(
            image, str(_WORDS[rng.integers(len(_WORDS))]), x - length // 20, y, rng.uniform(0.05, 0.12) * length, rng
        )
    elif kind == 2:
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.12, 0.25) * length
        end = (int(x + reach * np.cos(angle)), int(y + reach * np.sin(angle)))
        cv2.arrowedLine(image, (x, y), end, value, 2 * thick, cv2.LINE_AA, tipLength=0.35)
    elif kind == 3:
        cv2.circle(image, (x, y), int(rng.uniform(0.06, 0.14) * length), value, thick, cv2.LINE_AA)
    else:
        half = (rng.uniform(0.05, 0.14, 2) * length).astype(int)
        cv2.rectangle(image, (x - half[0], y - half[1]), (x + half[0], y + half[1]), value, thick)


def _write(image: Gray, word: str, x: int, y: int, size_px: float, rng: Rng) -> None:
    """Write a word whose capitals are `size_px` high, from (x, y), its lower left corner."""
    font = int(_FONTS[rng.integers(len(_FONTS))])
    (_, high), _ = cv2.getTextSize(word, font, 1.0, 1)
    thick = max(1, round(size_px * rng.uniform(0.08, 0.18)))
    value = int(rng.choice([0, 255, 255, 230, 160]))
    cv2.putText(image, word, (x, y), font, size_px / high, value, thick, cv2.LINE_AA)


def _contrast(image: Gray, rng: Rng) -> Gray:
    low, high = rng.uniform(0, 50), rng.uniform(170, 255)
    ramp = low + (high - low) * np.linspace(0, 1, 256) ** rng.uniform(0.7, 1.4)
    return ramp.astype(np.uint8)[image]


def _with_frame(image: Gray, rng: Rng) -> Gray:
    """Put the image into the window of a viewer, with a tool bar, or between the edges of a monitor."""
    height, width = image.shape
    edge = (rng.uniform(0.015, 0.07, 4) * (height, height, width, width)).astype(int)
    top, bottom, left, right = edge.tolist()
    bezel = [int(rng.uniform(0, 70))]
    bordered = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=bezel)
    framed = np.asarray(bordered, dtype=np.uint8)
    if rng.random() < 0.5:
        for i in range(rng.integers(3, 9)):
            x, side = int((0.03 + 0.07 * i) * width), max(3, int(0.03 * width))
            cv2.rectangle(framed, (x, edge[0] // 4), (x + side, edge[0] // 4 + side), int(rng.uniform(90, 230)), -1)
    if rng.random() < 0.6:
        shape = framed.shape
        cv2.rectangle(framed, (0, 0), (shape[1] - 1, shape[0] - 1), int(rng.uniform(0, 200)), max(2, width // 60))
    return framed


def _surroundings(height: int, width: int, rng: Rng) -> Gray:
    """Return a desk, a wall or a dark room."""
    coarse = rng.uniform(0, 1, (int(rng.integers(2, 7)),) * 2).astype(np.float32)
    field = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    scene = rng.uniform(5, 200) + rng.uniform(10, 90) * (field - 0.5)
    for _ in range(rng.integers(0, 5)):  # edges of furniture, keys, a window
        x, y = int(rng.uniform(0, width)), int(rng.uniform(0, height))
        w, h = (rng.uniform(0.05, 0.5, 2) * (width, height)).astype(int)
        cv2.rectangle(scene, (x, y), (x + w, y + h), float(rng.uniform(0, 255)), -1)
    return np.asarray(np.clip(scene, 0, 255), dtype=np.uint8)


def _quadrilateral(height: int, width: int, rng: Rng) -> npt.NDArray[np.float64]:
    """Return where the corners of the image are on the photograph, (4, 2) in pixels."""
    inset = rng.uniform(0.02, 0.13, 2)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * (1 - 2 * inset) + inset
    corners += rng.uniform(-0.045, 0.045, (4, 2))
    angle = np.deg2rad(rng.uniform(-7, 7))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray(((corners - 0.5) @ turn.T + 0.5) * (width, height), dtype=np.float64)


def _moire(height: int, width: int, rng: Rng) -> npt.NDArray[np.float32]:
    """Return the beat of the screen's pixels and the camera's, as a factor."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    total = np.zeros((height, width), np.float32)
    for _ in range(2):
        angle, period = rng.uniform(0, np.pi), rng.uniform(0.012, 0.08) * width
        bend = rng.uniform(0, 0.02) * width * np.sin(2 * np.pi * y / (rng.uniform(0.4, 1.5) * height))
        total += np.sin(2 * np.pi * ((x + bend) * np.cos(angle) + y * np.sin(angle)) / period)
    return np.asarray(1 + rng.uniform(0.02, 0.09) * total, dtype=np.float32)


def _light(height: int, width: int, rng: Rng) -> npt.NDArray[np.float32]:
    coarse = rng.uniform(0.65, 1.2, (3, 3)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def _glare(height: int, width: int, rng: Rng) -> npt.NDArray[np.float32]:
    """Return the reflection of one or two lamps."""
    spots = np.zeros((height, width), np.float32)
    for _ in range(rng.integers(1, 3)):
        centre = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
        axes = (int(rng.uniform(0.03, 0.18) * width), int(rng.uniform(0.03, 0.12) * height))
        cv2.ellipse(spots, centre, axes, rng.uniform(0, 180), 0, 360, float(rng.uniform(40, 170)), -1)
    return np.asarray(cv2.GaussianBlur(spots, (0, 0), rng.uniform(0.01, 0.05) * width), dtype=np.float32)
