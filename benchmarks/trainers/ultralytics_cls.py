"""ultralytics' classifier: a folder per label on each side, `YOLO(...).train`, then `predict`, as its quick start shows.

Run as `python ultralytics_cls.py JOB.json` (`benchmarks/trainers/__init__.py`); the environment needs ultralytics. Its ImageNet
weights are on a hub, so that without a connection the network starts from random ones (`NAME.yaml`).
"""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Train and predict one job."""
    from ultralytics import YOLO

    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(job["folder"])
    data = folder / "data"
    for side, name in (("train", "train"), ("validation", "val")):
        for i, (path, label) in enumerate(job[side]):
            (data / name / label).mkdir(parents=True, exist_ok=True)
            os.symlink(path, data / name / label / f"{i}-{Path(path).name}")
    network = YOLO(job["weights"] or "yolo11n-cls.yaml")
    network.train(
        data=str(data), imgsz=job["side_px"], epochs=100, time=job["minutes"] / 60, batch=32, workers=1, device="cpu",
        project=str(folder), name="run", plots=False, seed=0,
    )  # fmt: skip
    columns = [k for label in job["labels"] for k, name in network.names.items() if name == label]
    with open(job["predictions"], "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *job["labels"]])
        for path in job["predict"]:
            found = network.predict(path, imgsz=job["side_px"], device="cpu", verbose=False)[0].probs.data.tolist()
            writer.writerow([path, *(found[k] for k in columns)])


if __name__ == "__main__":
    main()
