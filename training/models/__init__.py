"""The networks of this house: one idea a file. `build_member` and `LungUNet` are what the steps use."""

from training.models.head import CamHead, MemberOutput
from training.models.members import ARCHITECTURES, build_member
from training.models.unet import GaussianDropout, LungUNet

__all__ = ["ARCHITECTURES", "CamHead", "GaussianDropout", "LungUNet", "MemberOutput", "build_member"]
