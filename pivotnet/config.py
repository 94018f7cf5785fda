"""Every number of the model and its training, as dataclasses, and the presets swint, res50, effb0 and smoke. The first
three have upstream's numbers (configs/pivotnet_nuscenes_*.py at the pinned commit). ``smoke`` is the same network made
small enough to learn on two CPU cores."""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from pivotnet.errors import PivotNetError

CAMERAS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")
CLASSES = ("divider", "ped_crossing", "boundary")
CAMERA_IMAGE_SIZE = (900, 1600)  # height, width of a nuScenes JPEG, pixels
RELEASE = "https://github.com/wenjie710/PivotNet/releases/download/v1.0/"  # upstream's weight files
WEIGHT_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x04")  # a zip file, or pickle as torch wrote it before 1.6


@dataclass(frozen=True)
class BackboneInfo:
    """How a backbone is recognised, and the file with its starting weights."""

    channels: tuple[int, int]  # of its features of strides 16 and 32
    mark: str  # part of a name that only this backbone's state_dict has
    weight_file: str  # in RELEASE
    sha256: str = ""  # first digits of the file's, as its name gives them; none is published for the other
    prefix: str = ""  # of the backbone's keys in the file; the other keys belong to other parts of the file's network
    dropped: tuple[str, ...] = ()  # beginnings of keys, after the prefix, that the backbone does not use

    @property
    def url(self) -> str:
        return RELEASE + self.weight_file


BACKBONES = {
    "swint": BackboneInfo(
        (384, 768),
        mark="patch_embed",
        weight_file="upernet_swin_tiny_patch4_window7_512x512.pth",  # a network for semantic segmentation
        prefix="backbone.",
        dropped=("norm0.", "norm1."),  # of features that are not used here
    ),
    "res50": BackboneInfo((1024, 2048), "layer1.0", "resnet50-0676ba61.pth", sha256="0676ba61", dropped=("fc.",)),
    "effb0": BackboneInfo(
        (112, 320),
        mark="_conv_stem",
        weight_file="efficientnet-b0-355c32eb.pth",
        sha256="355c32eb",
        dropped=("_conv_head.", "_bn1.", "_fc."),
    ),
}


@dataclass(frozen=True)
class MapConfig:
    """The piece of map around the car, in the ego frame: rows run from +30 m to -30 m forward, columns from +15 m to
    -15 m left."""

    ego_size: tuple[float, float] = (60.0, 30.0)  # metres: forward (rows), left (columns)
    resolution: float = 0.15  # metres a pixel
    map_size: tuple[int, int] = (400, 200)  # pixels: rows, columns
    max_points: tuple[int, int, int] = (10, 2, 30)  # pivot points of an instance, by class
    num_queries: tuple[int, int, int] = (20, 25, 15)  # instances, by class
    mask_thickness: int = 8  # pixels, lines of the training masks (instance_mask8)
    result_thickness: int = 1  # pixels, lines of the evaluated masks (instance_mask)

    @property
    def total_queries(self) -> int:
        """Q: instances of all classes (60)."""
        return sum(self.num_queries)

    @property
    def total_points(self) -> int:
        """T: points of all instances of all classes (700)."""
        return sum(q * p for q, p in zip(self.num_queries, self.max_points))

    @property
    def query_slices(self) -> list[slice]:
        """Each class's queries among the Q of all."""
        return _side_by_side(self.num_queries)

    @property
    def point_slices(self) -> list[slice]:
        """Each class's points among the T of all."""
        return _side_by_side([q * p for q, p in zip(self.num_queries, self.max_points)])


def _side_by_side(sizes: Sequence[int]) -> list[slice]:
    return [slice(end - size, end) for size, end in zip(sizes, itertools.accumulate(sizes))]


@dataclass(frozen=True)
class ModelConfig:
    """The network. Sizes are (height, width) or (rows, columns)."""

    backbone: str = "swint"  # swint | res50 | effb0
    backbone_channels: tuple[int, int] = (384, 768)  # of the features of strides 16 and 32
    image_size: tuple[int, int] = (512, 896)  # network input, pixels
    hidden: int = 256
    heads: int = 8
    bev_size: tuple[int, int] = (64, 32)  # cells of the BEV grid
    bev_encoder_layers: int = 4
    bev_decoder_layers: int = 4
    bev_feedforward: int = 1024
    deformable_points: int = 8  # sampling points a head and level
    dropout: float = 0.1  # BEV transformer only
    line_decoder_layers: int = 6
    line_feedforward: int = 2048
    point_features: int = 64  # channels of a coordinate feature (upstream: ins_channel)
    head_hidden: int = 256  # hidden channels of the point head's first MLP and of the coordinate MLP
    drop_path: float = 0.3  # Swin, rising linearly over the blocks
    drop_connect: float = 0.2  # EfficientNet, rising linearly over the blocks
    mask_stride: int = 1  # masks are predicted and supervised at map_size / mask_stride (smoke: fewer pixels)
    checkpointing: bool = False  # recompute activations: the backbone's (as upstream), deformable attention's, pixels'

    @property
    def feature_sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Sizes of one camera's features of strides 16 and 32."""
        height, width = self.image_size
        return (-(-height // 16), -(-width // 16)), (-(-height // 32), -(-width // 32))


@dataclass(frozen=True)
class CriterionConfig:
    """Costs, loss weights and their schedule over the decoders; names follow UPSTREAM's terms."""

    cost_object: float = 2.0
    cost_mask: float = 5.0
    cost_points: float = 30.0
    end_point_weight: float = 5.0  # extra weight of an instance's first and last point
    no_object_weight: float = 0.5
    collinear_weight: float = 0.2  # class weight of the points that are not pivots
    weight_semantic: float = 3.0
    weight_object: float = 2.0
    weight_mask: float = 5.0
    weight_points: float = 30.0
    weight_collinear: float = 10.0
    weight_point_logits: float = 2.0
    decoder_weights: tuple[float, ...] = (0.4, 0.4, 0.4, 0.8, 1.2, 1.6)  # one per line decoder layer
    bev_weights: tuple[float, ...] = (0.4, 0.8, 1.6, 2.4)  # one per BEV decoder layer (semantic masks)


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule. Rates are those of 8 cards; training scales them as upstream does."""

    lr: float = 2e-4
    backbone_lr: float = 5e-5  # parameters whose name contains "backbone"
    # Upstream's groups have the key "wd", which AdamW ignores: torch's default is what upstream trains with.
    weight_decay: float = 0.01
    milestones: tuple[float, ...] = (0.7, 0.9)  # of the epochs, truncated to whole epochs
    gamma: float = 0.2
    epochs: int = 30
    batch_size: int = 1  # samples a card
    scale_lr: bool = True  # x1 for 4 and 8 cards, .5 for 1 and 2, 1.5 for 16, 2 for 32


@dataclass(frozen=True)
class Config:
    """A preset: everything that defines a run, except where its data and outputs are."""

    name: str
    model: ModelConfig
    map: MapConfig = field(default_factory=MapConfig)
    criterion: CriterionConfig = field(default_factory=CriterionConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    @property
    def mask_size(self) -> tuple[int, int]:
        """Rows and columns of predicted and supervised masks."""
        stride = self.model.mask_stride
        return self.map.map_size[0] // stride, self.map.map_size[1] // stride

    def to_dict(self) -> dict:
        """Plain nested dict (JSON, checkpoints)."""
        return dataclasses.asdict(self)


PRESETS = {
    **{name: Config(name, ModelConfig(name, backbone.channels)) for name, backbone in BACKBONES.items()},
    "smoke": Config(
        "smoke",
        ModelConfig(
            "effb0",
            BACKBONES["effb0"].channels,
            image_size=(64, 128),
            hidden=64,
            heads=4,
            bev_size=(32, 16),
            bev_encoder_layers=1,
            bev_decoder_layers=2,
            bev_feedforward=128,
            deformable_points=4,
            dropout=0.0,
            line_decoder_layers=3,
            line_feedforward=128,
            point_features=32,
            head_hidden=64,
            drop_connect=0.0,
            mask_stride=4,
        ),
        MapConfig(num_queries=(12, 10, 8)),
        CriterionConfig(decoder_weights=(0.4, 0.8, 1.6), bev_weights=(0.8, 2.4)),
        OptimConfig(lr=1e-3, backbone_lr=1e-3, epochs=160, scale_lr=False),
    ),
}


def preset(name: str) -> Config:
    """The preset of that name; PivotNetError lists the known ones."""
    if name not in PRESETS:
        raise PivotNetError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
