"""Reads a location's map (nuScenes map expansion) once, into geometries with one spatial index."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import shapely

from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike, read_file, read_json
from pivotnet.schema import Rule, check, fields, items, number, text

LAYERS = ("road_divider", "lane_divider", "ped_crossing", "road_segment", "lane")  # lines of three, then areas of two
_OLDEST_VERSION = (1, 3)
_LARGEST = 512 * 2**20  # bytes of a file; the largest of nuScenes has 20 MB
_REMEDY = "unpack the map expansion again"
_NODES = items(text)


def _records(**rules: Rule) -> Rule:
    return items(fields(rules))


_MAP = fields(
    {
        "node": _records(token=text, x=number(-1e6, 1e6), y=number(-1e6, 1e6)),  # metres
        "line": _records(token=text, node_tokens=_NODES),
        "polygon": _records(token=text, exterior_node_tokens=_NODES, holes=_records(node_tokens=_NODES)),
        **{layer: _records(line_token=text) for layer in LAYERS[:2]},
        **{layer: _records(polygon_token=text) for layer in LAYERS[2:]},
    }
)


class LocationMap:
    """What annotation draws of one location.

    Args:
        layers: geometries of each of LAYERS in the order of its records, which is that of the instances: lines of the
            dividers, two lines for each crossing (its second longest edge, its longest), valid polygons of the areas.
    """

    def __init__(self, layers: Sequence[np.ndarray]) -> None:
        self.layers = layers
        self._geometries = np.concatenate(layers)
        self._ends = np.cumsum([len(layer) for layer in layers])
        self._tree = shapely.STRtree(self._geometries)

    def near(self, window: shapely.Polygon) -> tuple[np.ndarray, np.ndarray]:
        """Geometries [n] whose bounds meet those of ``window``, in order, and the index in LAYERS of each [n]."""
        indices = np.sort(self._tree.query(window))
        return self._geometries[indices], np.searchsorted(self._ends, indices, side="right")


def expansion_path(root: PathLike, location: str) -> Path:
    """Where a location's map lies."""
    return Path(root) / "maps" / "expansion" / f"{location}.json"


def fingerprint(path: Path) -> str:
    """SHA-256 of a map file, by which a changed map is noticed.

    Raises:
        PivotNetError: the file is missing or cannot be read.
    """
    try:
        return hashlib.sha256(read_file(path, _LARGEST)).hexdigest()
    except OSError as error:
        raise PivotNetError(
            f"map expansion {path} is missing ({error.strerror or error}): unpack nuScenes-map-expansion-v1.3 into "
            f"{path.parent.parent}"
        ) from error


def _check_version(content: dict, path: Path) -> None:
    version = str(content.get("version", "1.0"))[:20]
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
        self.content = content
        self.xy = np.array([(node["x"], node["y"]) for node in content["node"]], np.float64).reshape(-1, 2)
        self.index_of_node = {node["token"]: index for index, node in enumerate(content["node"])}
        self.nodes_of_line = {line["token"]: line["node_tokens"] for line in content["line"]}
        self.polygon_records = {polygon["token"]: polygon for polygon in content["polygon"]}

    def _coordinates(self, paths: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
        """Nodes of all paths one after the other [sum, 2], and the path of each [sum]."""
        nodes = [self.index_of_node[token] for path in paths for token in path]
        return self.xy[nodes], np.repeat(np.arange(len(paths)), [len(path) for path in paths])

    def lines(self, layer: str) -> np.ndarray:
        """LineStrings [n] of a layer but for those with less than two nodes (there are some in Queenstown)."""
        paths = [self.nodes_of_line[row["line_token"]] for row in self.content[layer]]
        paths = [path for path in paths if len(path) >= 2]
        coordinates, owners = self._coordinates(paths)
        return shapely.linestrings(coordinates, indices=owners) if paths else np.empty(0, object)

    def polygons(self, layer: str) -> np.ndarray:
        """Polygons [n] of a layer, not checked, but for those with less than three corners, and such holes."""
        records = [self.polygon_records[row["polygon_token"]] for row in self.content[layer]]
        outlines = [
            [record["exterior_node_tokens"], *(hole["node_tokens"] for hole in record["holes"])] for record in records
        ]
        polygons = [[ring for ring in rings if len(ring) >= 3] for rings in outlines if len(rings[0]) >= 3]
        if not polygons:
            return np.empty(0, object)
        coordinates, ring_of_node = self._coordinates([ring for rings in polygons for ring in rings])
        owners = np.repeat(np.arange(len(polygons)), [len(rings) for rings in polygons])
        return shapely.polygons(shapely.linearrings(coordinates, indices=ring_of_node), indices=owners)


def crossing_edges(polygons: np.ndarray) -> np.ndarray:
    """The second longest and the longest edge of each polygon's outline, LineStrings [2 n]."""
    edges = np.empty((len(polygons), 2, 2, 2))  # polygon, edge, end, (x, y)
    for own, ring in zip(edges, shapely.get_exterior_ring(polygons)):
        corners = shapely.get_coordinates(ring)
        lengths = np.square(corners[1:] - corners[:-1]).sum(1)
        # A stable sort, so that equal edges do not depend on the machine.
        starts = np.argsort(lengths, kind="stable")[-2:]
        own[:] = np.stack([corners[starts], corners[starts + 1]], axis=1)
    return shapely.linestrings(edges.reshape(-1, 2, 2))


def read_map(root: PathLike, location: str) -> LocationMap:
    """Read and index one location's map.

    Raises:
        PivotNetError: the file is missing, truncated, too old, against the rules or inconsistent.
    """
    path = expansion_path(root, location)
    content = read_json(path, _REMEDY, largest=_LARGEST)
    _check_version(content, path)  # first, since older versions break the rules
    check(_MAP, content, path, _REMEDY)
    try:
        geometry = _Geometry(content)
        dividers = [geometry.lines(layer) for layer in LAYERS[:2]]
        crossings, *areas = (geometry.polygons(layer) for layer in LAYERS[2:])
        # Invalid areas are skipped, as the devkit does; crossings are taken as they are.
        valid = [polygons[shapely.is_valid(polygons)] for polygons in areas]
        return LocationMap([*dividers, crossing_edges(crossings), *valid])
    except (KeyError, ValueError, shapely.errors.ShapelyError) as error:
        raise PivotNetError(
            f"{path} is no consistent map expansion ({type(error).__name__}: {error}): unpack it again"
        ) from error
