"""Reader of the Twitter COVID-19 collection: JFIF files without metadata; each file counts as a patient."""

from __future__ import annotations

from pathlib import Path

from training.data.records import Record, image_paths, record_of, require_images

__all__ = ["twitter"]


def twitter(folder: Path) -> list[Record]:
    """The COVID-19 set gathered from Twitter: JFIF files, no table. Every file counts as its own patient."""
    paths = image_paths(folder.glob("*"))
    require_images(paths, folder, "*.jfif")
    return [
        record_of(p, f"twitter/{p.stem}", "covid-19", source="twitter", view="unknown", finding="COVID-19", adult=True)
        for p in paths
    ]
