"""Reads a location's map (nuScenes map expansion) once, into geometries with one spatial index."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import shapely

from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike, read_json, read_or_fail
from pivotnet.schema import Rule, check, fields, items, number, text

LAYERS = ("road_divider", "lane_divider", "ped_crossing", "road_segment", "lane")  # lines of three, then areas of two
_OLDEST_VERSION = [1, 3]
_LARGEST = 512 * 2**20  # bytes of a file; the largest of nuScenes has 20 MB
_REMEDY = "unpack the map expansion again"


def _records(**rules: Rule) -> Rule:
    return items(fields(rules))


_MAP = fields(
    {
        "node": _records(token=text, x=number(-1e6, 1e6), y=number(-1e6, 1e6)),  # metres
        "line": _records(token=text, node_tokens=items(text)),
        "polygon": _records(token=text, exterior_node_tokens=items(text), holes=_records(node_tokens=items(text))),
        **{layer: _records(line_token=text) for layer in LAYERS[:2]},
        **{layer: _records(polygon_token=text) for layer in LAYERS[2:]},
    }
)


class LocationMap:
    """What annotation draws of one location: the geometries of each of LAYERS in the order of its records, which is
    that of the instances: lines of the dividers, two lines for each crossing (its second longest edge, its longest),
    valid polygons of the areas."""

    def __init__(self, layers: Sequence[np.ndarray]) -> None:
        self._geometries = np.concatenate(layers)
        self._ends = np.cumsum([len(layer) for layer in layers])
        self._tree = shapely.STRtree(self._geometries)

    def near(self, window: shapely.Polygon) -> tuple[np.ndarray, np.ndarray]:
        """Geometries [n] whose bounds meet those of ``window``, in order, and the index in LAYERS of each [n]."""
        indices = np.sort(self._tree.query(window))
        return self._geometries[indices], np.searchsorted(self._ends, indices, side="right")


def expansion_path(root: PathLike, location: str) -> Path:
    return Path(root) / "maps" / "expansion" / f"{location}.json"


def fingerprint(path: Path) -> str:
    """SHA-256 of a map file, by which a changed map is noticed. Raises PivotNetError: the file is missing or cannot be
    read."""
    remedy = f"unpack nuScenes-map-expansion-v1.3 into {path.parent.parent}"
    return hashlib.sha256(read_or_fail(path, remedy, _LARGEST)).hexdigest()


def _crossing_edges(polygon: shapely.Polygon) -> list[shapely.LineString]:
    """The second longest and the longest edge of a crossing's outline."""
    corners = shapely.get_coordinates(polygon.exterior)
    lengths = np.square(np.diff(corners, axis=0)).sum(1)
    longest = np.argsort(lengths, kind="stable")[-2:]  # stable: equal edges do not depend on the machine
    return [shapely.LineString(corners[start : start + 2]) for start in longest]


def _geometries(content: dict) -> list[np.ndarray]:
    """The geometries of each of LAYERS. Lines of less than two nodes (there are some in Queenstown) are left out, and
    outlines and holes of less than three."""
    nodes = {node["token"]: (node["x"], node["y"]) for node in content["node"]}
    lines = {line["token"]: line["node_tokens"] for line in content["line"]}
    polygons = {polygon["token"]: polygon for polygon in content["polygon"]}

    def points(tokens: list[str]) -> list[tuple[float, float]]:
        return [nodes[token] for token in tokens]

    def area(record: dict) -> shapely.Polygon:
        holes = [points(hole["node_tokens"]) for hole in record["holes"] if len(hole["node_tokens"]) >= 3]
        return shapely.Polygon(points(record["exterior_node_tokens"]), holes)

    layers: list[list[shapely.Geometry]] = []
    for layer in LAYERS[:2]:
        paths = (lines[row["line_token"]] for row in content[layer])
        layers.append([shapely.LineString(points(path)) for path in paths if len(path) >= 2])
    for layer in LAYERS[2:]:
        records = (polygons[row["polygon_token"]] for row in content[layer])
        layers.append([area(record) for record in records if len(record["exterior_node_tokens"]) >= 3])
    layers[2] = [edge for crossing in layers[2] for edge in _crossing_edges(crossing)]
    # Invalid areas are skipped, as the devkit does; crossings are taken as they are.
    layers[3:] = ([area for area in areas if area.is_valid] for areas in layers[3:])
    return [np.array(layer, object) for layer in layers]


def read_map(root: PathLike, location: str) -> LocationMap:
    """Read and index one location's map. Raises PivotNetError: the file is missing, truncated, too old, against the
    rules or inconsistent."""
    path = expansion_path(root, location)
    content = read_json(path, _REMEDY, largest=_LARGEST)
    version = str(content.get("version", "1.0"))[:20]
    if [int(part) for part in re.findall(r"\d+", version)] < _OLDEST_VERSION:  # first, since older ones break the rules
        raise PivotNetError(
            f"{path} is of map expansion version {version}, too old: download version 1.3 from nuscenes.org"
        )
    check(_MAP, content, path, _REMEDY)
    try:
        return LocationMap(_geometries(content))
    except (KeyError, ValueError, shapely.errors.ShapelyError) as error:
        raise PivotNetError(
            f"{path} is no consistent map expansion ({type(error).__name__}: {error}): unpack it again"
        ) from error
