"""Plain timm: the training loop of its documentation, random crop and flip, cosine schedule, the best epoch by accuracy.

Run as `python timm_loop.py JOB.json` (`benchmarks/trainers/__init__.py`); the environment needs torch, torchvision and timm.
"""

from __future__ import annotations

import csv
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

_MEAN, _SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_TO_TENSOR = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(_MEAN, _SD)]


class Images(Dataset[tuple[Tensor, int]]):
    """Images of a list of (path, label index)."""

    def __init__(self, rows: Sequence[tuple[str, int]], transform: Any) -> None:
        self.rows, self.transform = rows, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        path, label = self.rows[i]
        return self.transform(Image.open(path).convert("RGB")), label


def main() -> None:
    """Train and predict one job."""
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    network = timm.create_model(job["network"], num_classes=len(job["labels"]))
    _start(network, job["weights"])
    _train(network, job)
    _predict(network, job)


def _start(network: nn.Module, weights: str | None) -> None:
    """Load ImageNet weights by order and shape, the classifier left out."""
    if weights is None:
        return
    given = [v for k, v in torch.load(weights, weights_only=True).items() if not k.endswith("num_batches_tracked")]
    own = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    pairs = [(k, v) for k, v in zip(own, given, strict=False) if v.shape == own[k].shape]
    network.load_state_dict(dict(pairs), strict=False)


def _train(network: nn.Module, job: dict[str, Any]) -> None:
    side = job["side_px"]
    training = v2.Compose([v2.RandomResizedCrop(side, scale=(0.7, 1.0)), v2.RandomHorizontalFlip(), *_TO_TENSOR])
    loader = DataLoader(_rows(job, "train", training), batch_size=32, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.02)
    criterion, start, budget = nn.CrossEntropyLoss(label_smoothing=0.05), time.monotonic(), 60 * job["minutes"]
    best, kept, epoch = -1.0, network.state_dict(), 0
    while (spent := time.monotonic() - start) < budget:
        network.train()
        for images, labels in loader:
            done = min(1.0, (time.monotonic() - start) / budget)
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * (1 + math.cos(math.pi * done)) / 2
            optimizer.zero_grad()
            criterion(network(images), labels).backward()
            optimizer.step()
            if done == 1.0:
                break
        epoch += 1
        accuracy = _accuracy(network, job)
        print(f"epoch {epoch}: validation accuracy {accuracy:.4f}, {spent:.0f} s", flush=True)
        if accuracy >= best:
            best, kept = accuracy, {k: v.clone() for k, v in network.state_dict().items()}
    network.load_state_dict(kept)


def _rows(job: dict[str, Any], side: str, transform: Any) -> Images:
    return Images([(path, job["labels"].index(label)) for path, label in job[side]], transform)


def _accuracy(network: nn.Module, job: dict[str, Any]) -> float:
    dataset = _rows(job, "validation", _as_deployed(job))
    right = _scores(network, dataset).argmax(1) == torch.tensor([label for _, label in dataset.rows])
    return float(right.float().mean())


def _as_deployed(job: dict[str, Any]) -> Any:
    return v2.Compose([v2.Resize(job["side_px"]), v2.CenterCrop(job["side_px"]), *_TO_TENSOR])


def _scores(network: nn.Module, dataset: Images) -> Tensor:
    network.eval()
    with torch.no_grad():
        return torch.cat([network(images).softmax(1) for images, _ in DataLoader(dataset, batch_size=64)])


def _predict(network: nn.Module, job: dict[str, Any]) -> None:
    rows = [(path, 0) for path in job["predict"]]
    scores = _scores(network, Images(rows, _as_deployed(job)))
    with open(job["predictions"], "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *job["labels"]])
        writer.writerows([path, *row] for (path, _), row in zip(rows, scores.tolist(), strict=True))


if __name__ == "__main__":
    main()
