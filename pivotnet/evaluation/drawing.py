"""Pictures to judge a map by: the six camera images with the lines drawn on the ground, and the map from above."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrow, Rectangle

from pivotnet.annotation.format import Annotation, Line
from pivotnet.config import CAMERAS, CLASSES, MapConfig
from pivotnet.data.dataset import camera_paths
from pivotnet.data.images import read_image
from pivotnet.evaluation.vector_map import annotated_lines, annotated_pivots
from pivotnet.files import PathLike, atomic_write

NEAR = 0.3  # metres in front of the camera; what is nearer is cut off
COLOURS = ("#ff8c00", "#1e90ff", "#2ebd3b")  # of CLASSES
SOLID: dict[str, Any] = {"linewidth": 2.6}
DASHED: dict[str, Any] = {"linewidth": 1.5, "linestyle": (0, (4, 2.5))}
DOT: dict[str, Any] = {"marker": "o", "markeredgecolor": "black", "markeredgewidth": 0.6}
DPI = 100
# Sizes in the picture, pixels: a camera image, a map, the room left of a map, above an image or map, at the foot
IMAGE_SIZE, MAP_SIZE = (720, 405), (400, 800)
MAP_MARGIN, HEAD, FOOT, GAP = 75, 30, 50, 10
CAR = (-0.75, -0.87, 4.08, 1.73)  # rear, right, length, width in metres; the ego frame's origin is the rear axle


def render_sample(
    path: PathLike,
    token: str,
    annotation: Annotation,
    data_root: PathLike,
    map_config: MapConfig,
    predicted: list[Line] | None = None,
) -> None:
    """Write the PNG of one sample: cameras on the left, on the right the map from above, truth beside prediction.
    Raises PivotNetError: an image is missing or broken, or the PNG cannot be written. In the images the truth is dashed
    and the prediction solid; without prediction the truth is drawn alone."""
    truth = annotated_lines(annotation)
    panels = 1 if predicted is None else 2
    width = 3 * (IMAGE_SIZE[0] + GAP) + panels * (MAP_SIZE[0] + MAP_MARGIN) + 2 * GAP
    height = HEAD + 2 * (IMAGE_SIZE[1] + HEAD) + FOOT
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")

    def add_axes(left: float, top: float, size: tuple[int, int]) -> Axes:  # pixels
        return figure.add_axes((left / width, (height - top - size[1]) / height, size[0] / width, size[1] / height))

    solid, dashed = (truth, []) if predicted is None else (predicted, truth)
    for camera, relative in enumerate(camera_paths(annotation)):
        row, column = divmod(camera, 3)
        axes = add_axes(GAP + column * (IMAGE_SIZE[0] + GAP), 2 * HEAD + row * (IMAGE_SIZE[1] + HEAD), IMAGE_SIZE)
        _draw_camera(axes, read_image(Path(data_root) / relative), annotation, camera, solid, dashed)
    left = 3 * (IMAGE_SIZE[0] + GAP) + MAP_MARGIN
    axes = add_axes(left, 2 * HEAD, MAP_SIZE)
    _draw_map(axes, f"ground truth: {len(truth)} lines", truth, annotated_pivots(annotation, map_config), map_config)
    axes.set_ylabel("x, metres forward", labelpad=0)
    if predicted is not None:
        axes = add_axes(left + MAP_SIZE[0] + MAP_MARGIN - 2 * GAP, 2 * HEAD, MAP_SIZE)
        _draw_map(axes, f"prediction: {len(predicted)} lines", predicted, predicted, map_config, behind=truth)
    figure.text(GAP / width, 1 - GAP / height, f"sample {token}", va="top", fontsize=13, family="monospace")
    handles = [Line2D([], [], color=colour, linewidth=3, label=name) for colour, name in zip(COLOURS, CLASSES)]
    handles.append(Line2D([], [], color="white", markerfacecolor="#999999", label="pivot point", **DOT))
    if predicted is not None:
        handles += [Line2D([], [], color="#444444", label="prediction", **SOLID)]
        handles += [Line2D([], [], color="#444444", label="ground truth", **DASHED)]
    figure.legend(handles=handles, ncol=len(handles), frameon=False, fontsize=12, loc="lower left")
    with atomic_write(path) as stream:
        FigureCanvasAgg(figure).print_png(stream)


def _draw_camera(
    axes: Axes, image: np.ndarray, annotation: Annotation, camera: int, solid: list[Line], dashed: list[Line]
) -> None:
    height, width = image.shape[:2]
    small = cv2.resize(image, IMAGE_SIZE, interpolation=cv2.INTER_AREA)
    axes.imshow(small, extent=(0, width, height, 0), interpolation="none")
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axes.set_title(CAMERAS[camera].replace("CAM_", "").replace("_", " ").lower(), fontsize=11, pad=3)
    matrices = annotation.rots[camera], annotation.trans[camera], annotation.intrins[camera]
    for lines, style in ((solid, SOLID), (dashed, DASHED)):
        # a dark rim, so that a line stands out from bright ground
        rim = patheffects.Stroke(linewidth=style["linewidth"] + 1.4, foreground="#00000080")
        for line in lines:
            for piece in project_ground_line(line.points, *matrices):
                axes.plot(*piece.T, color=COLOURS[line.label], path_effects=[rim, patheffects.Normal()], **style)


def project_ground_line(
    points: np.ndarray, rotation: np.ndarray, translation: np.ndarray, intrinsic: np.ndarray
) -> list[np.ndarray]:
    """The parts of a ground line ``points`` [p, 2] (ego frame: x forward, y left, metres, z = 0) that lie in front of
    the camera's near plane, as polylines [k, 2] (u right, v down), pixels; they may leave the image. The camera stands
    at ``translation`` [3] and is turned by ``rotation`` [3, 3] (camera to ego). The pinhole maps straight segments to
    straight segments, so cutting each at the near plane is exact."""
    ground = np.column_stack([points, np.zeros(len(points))])
    seen = (ground - translation) @ rotation  # [p, 3]: the inverse of a rotation is its transpose
    ahead = seen[:, 2] - NEAR
    before = np.flatnonzero(ahead[:-1] * ahead[1:] < 0)  # segments that cross the plane
    share = (ahead[before] / (ahead[before] - ahead[before + 1]))[:, None]
    seen = np.insert(seen, before + 1, seen[before] * (1 - share) + seen[before + 1] * share, axis=0)
    visible = seen[:, 2] > NEAR - 1e-9
    pieces = np.split(seen @ intrinsic.T, np.flatnonzero(np.diff(visible)) + 1)
    return [piece[:, :2] / piece[:, 2:] for piece in pieces[int(not visible[:1].any()) :: 2]]


def _draw_map(
    axes: Axes,
    title: str,
    lines: list[Line],
    pivots: list[Line],
    map_config: MapConfig,
    behind: Sequence[Line] = (),
) -> None:
    """The map from above, front up: metres to the left run to the left."""
    x_half, y_half = (size / 2 for size in map_config.ego_size)
    axes.set(xlim=(y_half, -y_half), ylim=(-x_half, x_half), aspect="equal", xlabel="y, metres to the left")
    axes.set(xticks=np.arange(-y_half, y_half + 1, 5), yticks=np.arange(-x_half, x_half + 1, 5))
    axes.set_title(title, fontsize=12)
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    rear, right, length, width = CAR
    axes.add_patch(Rectangle((right, rear), width, length, facecolor="#bbbbbb", edgecolor="#444444", zorder=2))
    axes.add_patch(FancyArrow(0, 0.2, 0, 1.7, width=0.22, head_width=0.8, head_length=0.8, color="#444444", zorder=3))
    for line in behind:
        axes.plot(*line.points.T[::-1], color="#777777", linewidth=1, linestyle=(0, (4, 3)), zorder=3)
    for line in pivots:
        axes.plot(*line.points.T[::-1], color=COLOURS[line.label], markersize=4.7, linestyle="", zorder=5, **DOT)
    for line in lines:
        axes.plot(*line.points.T[::-1], color=COLOURS[line.label], linewidth=2, zorder=4)
        if line.score is not None:
            x, y = line.points[len(line.points) // 2]
            text = axes.annotate(f"{line.score:.2f}", (y, x), (3, 3), textcoords="offset points", fontsize=11, zorder=6)
            text.set_path_effects([patheffects.withStroke(linewidth=2, foreground="white")])
            text.set_clip_on(True)
