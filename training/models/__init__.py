"""Networks, one design per file: `build` creates a classifier from its spec; `LungUNet` segments the lungs."""

from training.models.files import load_network, save_network
from training.models.head import CamHead, MemberOutput, TaskHead
from training.models.members import ARCHITECTURES, build_member
from training.models.networks import FLANNEL_NAMES, R20_NAMES, Network, NetworkSpec, build, names
from training.models.shapes import resize, shapes_of
from training.models.unet import GaussianDropout, LungUNet

__all__ = [
    "ARCHITECTURES",
    "FLANNEL_NAMES",
    "R20_NAMES",
    "CamHead",
    "GaussianDropout",
    "LungUNet",
    "MemberOutput",
    "Network",
    "NetworkSpec",
    "TaskHead",
    "build",
    "build_member",
    "load_network",
    "names",
    "resize",
    "save_network",
    "shapes_of",
]
