"""View estimator: frames of images, some with a stated view, in; AP or PA of every image out, with its accuracy across sources.

Most collections do not state whether an image is AP (often portable, in bed) or PA, and the view follows the
label: the sick are X-rayed in bed. A logistic regression on the features of an ImageNet network, which was trained on no X-ray,
learns the view from the collections that state it. Within a collection it is nearly always right; across collections it is
much weaker, so `check_views` reports both, and a figure by view is as good as that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from cxr_edge.compiler.auc import auc
from cxr_edge.specs.preprocess import PreprocessSpec
from training.data.dataset import Sample
from training.data.findings import FRONTAL_VIEWS, projection
from training.json_records import ROUNDED
from training.tasks.predict import input_batches

__all__ = [
    "VIEW_NETWORK",
    "VIEW_PX",
    "VIEW_WEIGHTS",
    "ViewAccuracy",
    "Views",
    "check_views",
    "estimate_views",
    "frame_features",
    "stated_views",
]

VIEW_NETWORK = "timm:tf_efficientnet_lite0"  # for the features
VIEW_WEIGHTS: str | None = "package"  # of that network, as in a configuration's `imagenet`
VIEW_PX = 160  # side of the frames

Features = npt.NDArray[np.float32]
_FOLDS = 5
_LEAST = 20  # images of each view that a source needs to be learnt from, or to be checked on
_REGULARISATION = 0.003  # of about 2,500 features of a few hundred images


@dataclass(frozen=True, kw_only=True)
class ViewAccuracy:
    """AUC of the estimated view on one source whose views are stated."""

    ap: int  # images
    pa: int
    within: float = field(metadata=ROUNDED)  # fitted on other patients of the source
    across: float = field(metadata=ROUNDED)  # fitted on the other sources; NaN without such


@dataclass(frozen=True, kw_only=True)
class Views:
    """Views of a run's images, as its folder holds them."""

    views: Mapping[str, str]  # key of the record -> AP, PA or, without any collection that states both, empty
    accuracy: Mapping[str, ViewAccuracy]  # source -> accuracy of the estimate


def stated_views(samples: Sequence[Sample]) -> list[str]:
    """Return AP, PA or, where neither is stated, an empty string."""
    found = [projection(s.record.view) for s in samples]
    return [view if view in FRONTAL_VIEWS else "" for view in found]


@torch.no_grad()
def frame_features(network: nn.Module, frames: npt.NDArray[np.uint8], spec: PreprocessSpec) -> Features:
    """Return mean and maximum of the trunk's maps (N, 2 x C) for full frames (N, S, S). network: with ImageNet weights."""
    trunk = network.get_submodule("trunk").eval()
    parts = []
    for images in input_batches(frames, spec):
        maps = trunk(images.contiguous(memory_format=torch.channels_last))
        parts.append(torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1).float().numpy())
    return np.concatenate(parts)


def estimate_views(samples: Sequence[Sample], features: Features) -> list[str]:
    """Return the view of each sample: as stated, else estimated by what the sources that state both views teach.

    features: of `frame_features`, in the samples' order. Empty for an unstated view if no source states both.
    """
    stated = stated_views(samples)
    rows = [i for source in _informative(samples, stated) for i in _rows(samples, stated, source)]
    unknown = [i for i, view in enumerate(stated) if not view]
    if not rows or not unknown:
        return stated
    model = _model().fit(features[rows], [stated[i] for i in rows])
    for i, view in zip(unknown, model.predict(features[unknown]), strict=True):
        stated[i] = str(view)
    return stated


def check_views(samples: Sequence[Sample], features: Features) -> Mapping[str, ViewAccuracy]:
    """Return the accuracy on each source that states both views, by patients within it and fitted on the other sources."""
    stated = stated_views(samples)
    sources = _informative(samples, stated)
    found = {}
    for source in sources:
        rows = _rows(samples, stated, source)
        others = [i for other in sources if other != source for i in _rows(samples, stated, other)]
        is_ap = np.array([stated[i] == "AP" for i in rows])
        found[source] = ViewAccuracy(
            ap=int(is_ap.sum()),
            pa=int((~is_ap).sum()),
            within=auc(_within(samples, features, rows, is_ap), is_ap),
            across=auc(_scores(features, others, stated, rows), is_ap) if others else float("nan"),
        )
    return found


def _informative(samples: Sequence[Sample], stated: Sequence[str]) -> list[str]:
    """Return the sources with enough images of both views: in one with a single view, the view is the source."""
    sources = sorted({s.record.source for s in samples})
    counts = {source: [stated[i] for i in _rows(samples, stated, source)] for source in sources}
    return [source for source, views in counts.items() if min(map(views.count, FRONTAL_VIEWS)) >= _LEAST]


def _rows(samples: Sequence[Sample], stated: Sequence[str], source: str) -> list[int]:
    return [i for i, s in enumerate(samples) if s.record.source == source and stated[i]]


def _model() -> Pipeline:
    regression = LogisticRegression(C=_REGULARISATION, class_weight="balanced", max_iter=500)
    return make_pipeline(StandardScaler(), regression)


def _within(
    samples: Sequence[Sample], features: Features, rows: Sequence[int], is_ap: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    groups = [samples[i].group for i in rows]
    folds = GroupKFold(min(_FOLDS, len(set(groups))))
    found = cross_val_predict(_model(), features[rows], is_ap, groups=groups, cv=folds, method="decision_function")
    return np.asarray(found, dtype=np.float64)


def _scores(
    features: Features, fitted: Sequence[int], stated: Sequence[str], rows: Sequence[int]
) -> npt.NDArray[np.float64]:
    model = _model().fit(features[fitted], np.array([stated[i] == "AP" for i in fitted]))
    return np.asarray(model.decision_function(features[rows]), dtype=np.float64)
