"""Reads a location's map (nuScenes map expansion) once, into geometries with a spatial index for each layer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import shapely

from pivotnet.annotation.tables import read_json
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike

DIVIDER_LAYERS = ("road_divider", "lane_divider")
AREA_LAYERS = ("road_segment", "lane")
CROSSING_LAYER = "ped_crossing"
_OLDEST_VERSION = (1, 3)


class LocationMap:
    """What annotation draws of one location, all layers in one spatial index.

    Each layer's geometries are in the order of its records, which is the order of the instances.

    Args:
        dividers: lines of road dividers, of lane dividers.
        crossings: two lines for each pedestrian crossing: its second longest edge, its longest.
        areas: valid polygons of road segments, of lanes.
    """

    def __init__(
        self,
        dividers: tuple[np.ndarray, np.ndarray],
        crossings: np.ndarray,
        areas: tuple[np.ndarray, np.ndarray],
    ) -> None:
        self.dividers, self.crossings, self.areas = dividers, crossings, areas
        layers = (*dividers, crossings, *areas)
        self._geometries = np.concatenate(layers)
        self._ends = np.cumsum([len(layer) for layer in layers])
        self._index = shapely.STRtree(self._geometries)

    def near(self, window: shapely.Polygon) -> tuple[np.ndarray, np.ndarray]:
        """Geometries [n] whose bounds meet those of ``window``, layer by layer, each layer in record order.

        With the layer of each, int64 [n]: 0 and 1 road and lane dividers, 2 crossings, 3 and 4 road segments and lanes.
        """
        rows = np.sort(self._index.query(window))
        return self._geometries[rows], np.searchsorted(self._ends, rows, side="right")


def expansion_path(root: PathLike, location: str) -> Path:
    """Where a location's map lies."""
    return Path(root) / "maps" / "expansion" / f"{location}.json"


def fingerprint(path: Path) -> str:
    """SHA-256 of a map file, by which a changed map is noticed.

    Raises:
        PivotNetError: the file is missing.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise PivotNetError(
            f"map expansion {path} is missing ({error.strerror or error}): unpack nuScenes-map-expansion-v1.3 into "
            f"{path.parent.parent}"
        ) from error


def _check_version(content: object, path: Path) -> None:
    version = str(content.get("version", "1.0")) if isinstance(content, dict) else "none"
    try:
        recent = tuple(int(part) for part in version.split(".")) >= _OLDEST_VERSION
    except ValueError:
        recent = False
    if not recent:
        raise PivotNetError(
            f"{path} is of map expansion version {version}, too old: download version 1.3 from nuscenes.org"
        )


class _Geometry:
    """Nodes, lines and polygons of one map file, by token."""

    def __init__(self, content: dict) -> None:
        self.xy = np.array([(node["x"], node["y"]) for node in content["node"]], np.float64).reshape(-1, 2)
        if not np.isfinite(self.xy).all():
            raise ValueError("a node has a coordinate that is no number")
        self.node_row = {node["token"]: row for row, node in enumerate(content["node"])}
        self.line_nodes = {line["token"]: line["node_tokens"] for line in content["line"]}
        self.polygon_rings = {
            polygon["token"]: [polygon["exterior_node_tokens"], *(hole["node_tokens"] for hole in polygon["holes"])]
            for polygon in content["polygon"]
        }

    def _coordinates(self, paths: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
        """Nodes of all paths one after the other [sum, 2], and the path of each [sum]."""
        rows = [self.node_row[token] for path in paths for token in path]
        return self.xy[rows], np.repeat(np.arange(len(paths)), [len(path) for path in paths])

    def lines(self, tokens: Sequence[str]) -> np.ndarray:
        """LineStrings [n]; lines without nodes (there are some in Queenstown) or with a single one are left out."""
        paths = [path for path in map(self.line_nodes.__getitem__, tokens) if len(path) >= 2]
        coordinates, owner = self._coordinates(paths)
        return shapely.linestrings(coordinates, indices=owner) if paths else np.empty(0, object)

    def polygons(self, tokens: Sequence[str]) -> np.ndarray:
        """Polygons [n], not checked; those with fewer than three corners, and such holes, are left out."""
        paths: list[Sequence[str]] = []
        owner = []
        count = 0
        for outline, *holes in map(self.polygon_rings.__getitem__, tokens):
            if len(outline) < 3:
                continue
            rings = [outline, *(hole for hole in holes if len(hole) >= 3)]
            paths += rings
            owner += [count] * len(rings)
            count += 1
        if not paths:
            return np.empty(0, object)
        coordinates, ring_of_node = self._coordinates(paths)
        rings = shapely.linearrings(coordinates, indices=ring_of_node)
        return shapely.polygons(rings, indices=np.array(owner))


def crossing_edges(polygons: np.ndarray) -> np.ndarray:
    """The second longest and the longest edge of each polygon's outline, LineStrings [2 n]."""
    edges = np.empty((len(polygons), 2, 2, 2))  # polygon, edge, end, (x, y)
    for row, ring in enumerate(shapely.get_exterior_ring(polygons)):
        corners = shapely.get_coordinates(ring)
        lengths = np.square(corners[1:] - corners[:-1]).sum(1)
        # A stable sort, so that equal edges do not depend on the machine.
        for column, start in enumerate(np.argsort(lengths, kind="stable")[-2:]):
            edges[row, column] = corners[start : start + 2]
    return shapely.linestrings(edges.reshape(-1, 2, 2))


def read_map(root: PathLike, location: str) -> LocationMap:
    """Read and index one location's map.

    Raises:
        PivotNetError: the file is missing, truncated, too old or inconsistent.
    """
    path = expansion_path(root, location)
    content = read_json(path)
    _check_version(content, path)
    try:
        geometry = _Geometry(content)
        dividers = [geometry.lines([row["line_token"] for row in content[name]]) for name in DIVIDER_LAYERS]
        areas = [geometry.polygons([row["polygon_token"] for row in content[name]]) for name in AREA_LAYERS]
        crossings = geometry.polygons([row["polygon_token"] for row in content[CROSSING_LAYER]])
    except (KeyError, TypeError, ValueError, shapely.errors.ShapelyError) as error:
        raise PivotNetError(
            f"{path} is no consistent map expansion ({type(error).__name__}: {error}): unpack it again"
        ) from error
    return LocationMap(
        dividers=(dividers[0], dividers[1]),
        crossings=crossing_edges(crossings),
        # Invalid areas are skipped, as the devkit does; crossings are taken as they are.
        areas=(areas[0][shapely.is_valid(areas[0])], areas[1][shapely.is_valid(areas[1])]),
    )
