"""Image backbones: Swin-T, ResNet-50 and EfficientNet-B0, with upstream's parameter names."""

from torch import Tensor, nn

from pivotnet.config import ModelConfig
from pivotnet.model.backbone.efficientnet import EfficientNet
from pivotnet.model.backbone.resnet import ResNet
from pivotnet.model.backbone.swin import SwinTransformer


class Backbone(nn.Module):
    """Camera images -> features of strides 16 and 32. The network itself is ``bkb``, as in upstream's checkpoints."""

    def __init__(self, bkb: nn.Module) -> None:
        super().__init__()
        self.bkb = bkb

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """float32 [B*6, 3, height, width] -> [B*6, C16, height/16, width/16], [B*6, C32, height/32, width/32]."""
        return self.bkb(images)


def build_backbone(model: ModelConfig) -> Backbone:
    """The backbone that ``model.backbone`` names, initialised as upstream without a weight file (see pretrained.py)."""
    if model.backbone == "swint":
        return Backbone(SwinTransformer(model.drop_path, model.checkpointing))
    if model.backbone == "res50":
        return Backbone(ResNet(model.checkpointing))
    return Backbone(EfficientNet(model.drop_connect, model.checkpointing))
