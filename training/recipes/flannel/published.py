"""Printed figures of FLANNEL's Tables 1 and 3 (Qiao et al. 2020), digit for digit, shown next to our figures."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["LABELS", "PRINTED_COVID", "TABLE_1", "TABLE_3"]

LABELS = ("covid-19", "viral", "bacterial", "normal")  # the order of all columns

# (kind, row) -> images: the total, then those of each label.
TABLE_1: Mapping[tuple[str, str], tuple[int, ...]] = {
    ("original data", "ccx"): (119, 100, 11, 7, 1),
    ("original data", "kcx"): (5389, 0, 1492, 2780, 1117),
    ("view", "AP"): (5413, 24, 1492, 2780, 1117),
    ("view", "PA"): (95, 76, 11, 7, 1),
    ("split", "training"): (4406, 77, 1194, 2237, 898),
    ("split", "test"): (1102, 23, 309, 550, 220),
    ("all", "all"): (5508, 100, 1503, 2787, 1118),
}

# Our name of a method -> its name in the paper, and F1 as mean (sd) over five models: of each label, then macro.
TABLE_3: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "inception": ("InceptionV3", ("0.5904(0.27)", "0.5864(0.05)", "0.8056(0.01)", "0.8771(0.04)", "0.7149(0.09)")),
    "vgg": ("Vgg19_bn", ("0.6160(0.06)", "0.5349(0.04)", "0.7967(0.02)", "0.8691(0.03)", "0.7042(0.02)")),
    "resnext": ("ResNeXt101", ("0.6378(0.12)", "0.5649(0.03)", "0.7959(0.01)", "0.8537(0.02)", "0.7140(0.03)")),
    "resnet": ("Resnet152", ("0.6277(0.11)", "0.5506(0.02)", "0.7988(0.01)", "0.8700(0.01)", "0.7110(0.03)")),
    "densenet": ("Densenet161", ("0.6880(0.07)", "0.5930(0.02)", "0.8017(0.01)", "0.8953(0.01)", "0.7445(0.02)")),
    "covid-net": ("COVID-Net", ("0.7179(0.13)", "0.5592(0.04)", "0.8095(0.02)", "0.8787(0.03)", "0.7413(0.03)")),
    "ai-covid": ("AI-Covid", ("0.6391(0.16)", "0.5238(0.07)", "0.7504(0.02)", "0.7223(0.03)", "0.6589(0.07)")),
    "voting": ("Voting", ("0.7684(0.04)", "0.6005(0.03)", "0.8214(0.03)", "0.9079(0.01)", "0.7745(0.01)")),
    "mlp-1": ("Ensemble_MLP_I1", ("0.6247(0.07)", "0.6042(0.03)", "0.8185(0.01)", "0.9161(0.01)", "0.7409(0.02)")),
    "mlp-2": ("Ensemble_MLP_I2", ("0.3735(0.23)", "0.6030(0.02)", "0.8206(0.00)", "0.9128(0.01)", "0.6775(0.05)")),
    "flannel-ce": (
        "FLANNEL_w/o_Focal", ("0.7671(0.06)", "0.6001(0.03)", "0.8238(0.01)", "0.9135(0.01)", "0.7761(0.01)"),
    ),
    "flannel-ce-sampling": (
        "FLANNEL_w/o_Focal + Sampling",
        ("0.7837(0.04)", "0.5953(0.04)", "0.8245(0.01)", "0.9131(0.01)", "0.7791(0.02)"),
    ),
    "flannel": ("FLANNEL", ("0.8168(0.03)", "0.6063(0.02)", "0.8267(0.00)", "0.9144(0.01)", "0.7910(0.01)")),
}  # fmt: skip

# FLANNEL's precision and recall for COVID-19 (abstract).
PRINTED_COVID = {"precision": "0.7833(0.07)", "recall": "0.8609(0.03)"}
