"""Reader of the COVID-19 images gathered from Twitter: JFIF files without metadata."""

from __future__ import annotations

from pathlib import Path

from training.data.findings import UNKNOWN_VIEW
from training.data.records import CollectedRecords, Selection, image_paths, make_record, require_images

__all__ = ["read_twitter"]


def read_twitter(folder: Path, selection: Selection | None = None) -> CollectedRecords:
    """Read the JFIF files of `folder`. There is no table, so every file counts as its own patient."""
    paths = image_paths(folder.glob("*"))
    require_images(paths, folder, "*.jfif")
    return CollectedRecords(
        records=[
            make_record(
                p, f"twitter/{p.stem}", "covid-19", source="twitter", view=UNKNOWN_VIEW, finding="COVID-19", adult=True
            )
            for p in paths
        ]
    )
