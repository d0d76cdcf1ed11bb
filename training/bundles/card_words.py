"""Words of a model card, besides the figures: on the published collections, or a user's own images; keys of the provenance."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BELOW_FLOOR", "CardWords"]

BELOW_FLOOR = "below_floor"  # key of the provenance: the floors below which a bundle was written, in words


@dataclass(frozen=True, kw_only=True)
class CardWords:
    """Sentences of a model card; the defaults are those of the published collections."""

    own_source: str = "a collection of your own"  # description of a source that is no published collection
    licences: str = (
        "Licences of the collections are mixed: some non-commercial, some unstated. No image of theirs is in this bundle; "
        "its known-answer images are synthetic."
    )
    labels: str = "Label and source are correlated in these collections"  # before the sources of each label
    stated_by: str = "the collections"  # view, age and sex
    source: str = "collection"  # what a classifier of the source predicts
    how_much: str | None = (
        None  # what shows how much lower figures are elsewhere; None: the loop's results, if there are any
    )
    fairness: str = "Fairness across sex, age or origin was not measured: the collections hardly record them."
    first: tuple[str, ...] = ()  # sections before the results on test patients, with their titles
    limits: tuple[str, ...] = ()  # sentences
