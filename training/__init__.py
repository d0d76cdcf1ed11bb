"""Training: folders of chest X-rays in, a bundle out. training/README.md has the commands.

Training imports `cxr_edge` for everything that must be identical on the device; `cxr_edge` never imports training. Importing
this package prevents the libraries used in training from writing to the user's home.
"""

import atexit
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from cxr_edge import moved  # importing cxr_edge switches ONNX Runtime's telemetry off

__all__: list[str] = []

# matplotlib writes its font list to the home unless this variable names another folder, which it creates on import. The
# figures set all parameters that they need, so the user's own settings are not used.
if "MPLCONFIGDIR" not in os.environ:
    _folder = Path(tempfile.gettempdir()) / f"cxr-edge-matplotlib-{secrets.token_hex(8)}"
    os.environ["MPLCONFIGDIR"] = str(_folder)
    atexit.register(shutil.rmtree, _folder, ignore_errors=True)

# Old name -> new name, for imports of version 0.1.
_MOVED = {
    "apoz": "pruning.apoz",
    "assemble": "bundles.assemble",
    "augment": "data.augment",
    "bundle": "bundles.write",
    "canvases": "data.canvases",
    "card": "bundles.model_card",
    "classify": "tasks.classify",
    "collections": "data.collections",
    "config": "recipes.config",
    "cost": "pruning.cost",
    "dataset": "data.dataset",
    "duplicates": "data.duplicates",
    "engine": "loop.fit",
    "ensemble": "ensembles.fit",
    "export": "models.onnx_export",
    "flannel": "recipes.flannel",
    "flannel.combine": "recipes.flannel.combine",
    "flannel.config": "recipes.flannel.config",
    "flannel.finish": "recipes.flannel.finish",
    "flannel.published": "recipes.flannel.published",
    "flannel.report": "recipes.flannel.report",
    "flannel.results": "recipes.flannel.results",
    "flannel.run": "recipes.flannel.run",
    "flannel.stages": "recipes.flannel.stages",
    "flannel.tables": "recipes.flannel.tables",
    "folds": "data.folds",
    "gradcam": "evaluation.gradcam",
    "leakage": "data.leakage",
    "losses": "tasks.losses",
    "maps": "evaluation.mean_maps",
    "metrics": "evaluation.metrics",
    "neural_weights": "ensembles.neural_weights",
    "pictures": "evaluation.figures",
    "prune": "pruning.prune",
    "published_tables": "data.csv_tables",
    "r20": "recipes.r20",
    "r20.alignment": "recipes.r20.alignment",
    "r20.config": "recipes.r20.config",
    "r20.finish": "recipes.r20.finish",
    "r20.parameters": "recipes.r20.parameters",
    "r20.published": "recipes.r20.published",
    "r20.reductions": "recipes.r20.reductions",
    "r20.report": "recipes.r20.report",
    "r20.results": "recipes.r20.results",
    "r20.run": "recipes.r20.run",
    "r20.stages": "recipes.r20.stages",
    "r20.tables": "recipes.r20.tables",
    "removal": "pruning.channels",
    "run": "recipes.run",
    "search": "loop.search",
    "segment": "tasks.segment",
    "segmenting": "recipes.segmenter",
    "shortcuts": "evaluation.shortcuts",
    "splits": "data.splits",
    "statistics": "evaluation.statistics",
    "tables": "evaluation.pages",
    "targets": "data.targets",
}

moved.install("training", _MOVED)
