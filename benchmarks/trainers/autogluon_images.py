"""AutoGluon's MultiModalPredictor on a table of image paths and labels, as its tutorial of image classification shows.

Run as `python autogluon_images.py JOB.json` (`benchmarks/trainers/__init__.py`); the environment needs autogluon.multimodal.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Train and predict one job."""
    import pandas
    from autogluon.multimodal import MultiModalPredictor

    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    rows = pandas.DataFrame([*job["train"], *job["validation"]], columns=["image", "label"])
    predictor = MultiModalPredictor(label="label", path=str(Path(job["folder"]) / "run"), problem_type="classification")
    predictor.fit(rows, time_limit=round(60 * job["minutes"]), seed=0)
    found = predictor.predict_proba(pandas.DataFrame({"image": job["predict"]}))
    with open(job["predictions"], "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *job["labels"]])
        for path, (_, row) in zip(job["predict"], found.iterrows(), strict=True):
            writer.writerow([path, *(float(row[label]) for label in job["labels"])])


if __name__ == "__main__":
    main()
