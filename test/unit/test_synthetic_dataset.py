"""The written files: the unmodified nuscenes-devkit reads them, tokens resolve, the seed decides every byte."""

from __future__ import annotations

import filecmp
import json
from pathlib import Path

import numpy as np
import pytest

from pivotnet.synthetic import scene_names
from pivotnet.synthetic.generate import generate
from pivotnet.synthetic.plan import Options, make_plan
from pivotnet.synthetic.tables import TABLES
from pivotnet.synthetic.town import LOCATIONS

OPTIONS = Options(scenes=6, samples_per_scene=2, seed=11, images=False)


def ignore(done: int, total: int) -> None:
    """No progress bar."""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "set"
    assert generate(folder, OPTIONS, 1, ignore)
    return folder


def table(root: Path, name: str) -> list:
    return json.loads((root / "v1.0-trainval" / f"{name}.json").read_text())


def expansion(root: Path, location: str) -> dict:
    return json.loads((root / "maps" / "expansion" / f"{location}.json").read_text())


def test_scene_names_are_those_of_nuscenes_own_splits():
    splits = pytest.importorskip("nuscenes.utils.splits")
    assert sorted(scene_names.names(scene_names.TRAIN_RANGES)) == sorted(splits.train)
    assert sorted(scene_names.names(scene_names.VAL_RANGES)) == sorted(splits.val)


@pytest.mark.parametrize(("scenes", "val"), [(1, []), (2, [1]), (3, [2]), (4, [3]), (8, [3, 7]), (9, [3, 7])])
def test_every_fourth_scene_is_for_validation(scenes, val):
    names = scene_names.assign(scenes)
    assert len(set(names)) == scenes
    pool = set(scene_names.names(scene_names.VAL_RANGES))
    assert [index for index, name in enumerate(names) if name in pool] == val


def test_all_tables_are_there_and_their_tokens_resolve(root):
    assert sorted(path.stem for path in (root / "v1.0-trainval").iterdir()) == sorted(TABLES)
    tables = {name: table(root, name) for name in TABLES}
    known = {name: {record["token"] for record in records} for name, records in tables.items()}
    for name, records in tables.items():
        assert records and len(known[name]) == len(records)
        for record in records:
            for field, value in record.items():
                target = field[: -len("_token")].replace("first_", "").replace("last_", "")
                if field.endswith("_token"):
                    target = {"annotation": "sample_annotation"}.get(target, target)
                    assert value in known[target], (name, field)
                if field in ("prev", "next"):
                    assert value == "" or value in known[name]
    assert len(tables["sample_data"]) == 7 * len(tables["sample"]) == 7 * 12


def test_every_log_has_a_map_whose_mask_is_there(root):
    logs = [token for record in table(root, "map") for token in record["log_tokens"]]
    assert sorted(logs) == sorted(record["token"] for record in table(root, "log"))
    assert all((root / record["filename"]).is_file() for record in table(root, "map"))


@pytest.mark.parametrize("location", LOCATIONS)
def test_references_inside_a_map_resolve(root, location):
    content = expansion(root, location)
    assert content["version"] == "1.3"
    known = {
        layer: {record["token"] for record in records}
        for layer, records in content.items()
        if isinstance(records, list) and layer != "canvas_edge"
    }
    nodes = known["node"]
    targets = {"from_edge_line": "line", "to_edge_line": "line", "from_road_block": "road_block"}
    for layer, tokens in known.items():
        assert tokens and len(tokens) == len(content[layer])
        for record in content[layer]:
            for field, value in record.items():
                name = field.removesuffix("_tokens").removesuffix("_token")
                target = targets.get(name, "node" if name.endswith("node") else name)
                if field.endswith("_token") and value is not None:
                    assert value in known[target], (layer, field)
                if field.endswith("_tokens"):
                    assert set(value) <= known[target], (layer, field)
                if field.endswith("_segments"):
                    assert len(value) >= 2 and {part["node_token"] for part in value} <= nodes
    ways = known["lane"] | known["lane_connector"]
    assert set(content["arcline_path_3"]) == set(content["connectivity"]) == ways
    assert all(content["arcline_path_3"][token] for token in ways)
    for token, links in content["connectivity"].items():
        assert all(token in content["connectivity"][other]["incoming"] for other in links["outgoing"])
        assert all(token in content["connectivity"][other]["outgoing"] for other in links["incoming"])


def test_the_devkit_loads_tables_and_maps(root):
    nuscenes = pytest.importorskip("nuscenes")
    from nuscenes.map_expansion.map_api import NuScenesMap

    loaded = nuscenes.NuScenes("v1.0-trainval", str(root), verbose=False)
    maps = {location: NuScenesMap(str(root), location) for location in LOCATIONS}
    assert all(len(sample["data"]) == 7 for sample in loaded.sample)
    for sample in loaded.sample[::2]:
        log = loaded.get("log", loaded.get("scene", sample["scene_token"])["log_token"])
        lidar = loaded.get("sample_data", sample["data"]["LIDAR_TOP"])
        x, y, _ = loaded.get("ego_pose", lidar["ego_pose_token"])["translation"]
        found = maps[log["location"]].get_records_in_patch((x - 40, y - 40, x + 40, y + 40))
        prior = loaded.get("map", log["map_token"])["mask"]
        on_road = bool(maps[log["location"]].record_on_point(x, y, "road_segment"))
        assert on_road == bool(prior.is_on_mask(x, y)[0])
        if on_road:
            assert found["road_segment"] and maps[log["location"]].get_closest_lane(x, y, radius=15)
    for annotation in loaded.sample_annotation:
        assert annotation["category_name"] == "vehicle.car" and annotation["num_lidar_pts"] >= 0


@pytest.mark.parametrize("location", LOCATIONS[2:])
def test_the_devkit_reads_what_the_annotation_needs(root, location):
    map_api = pytest.importorskip("nuscenes.map_expansion.map_api")
    read = map_api.NuScenesMap(str(root), location)
    whole = (read.canvas_edge[0] / 2, read.canvas_edge[1] / 2, read.canvas_edge[1], read.canvas_edge[0])
    geometries = dict(
        read.get_map_geom(whole, 0.0, ["road_segment", "lane", "ped_crossing", "road_divider", "lane_divider"])
    )
    for layer, shapes in geometries.items():
        assert len(shapes) == len(getattr(read, layer)) > 0
        assert all(shape.is_valid and not shape.is_empty for shape in shapes)
    assert len(read.discretize_centerlines(2.0)) == len(read.lane) + len(read.lane_connector)
    lane = read.lane[0]
    assert read.get_arcline_path(lane["token"])
    poses = read.discretize_lanes([lane["token"]], 1.0)[lane["token"]]
    x, y, _ = poses[len(poses) // 2]
    assert read.record_on_point(x, y, "lane") == lane["token"]


def test_lanes_lead_on_to_the_next_road(root):
    map_api = pytest.importorskip("nuscenes.map_expansion.map_api")
    read = map_api.NuScenesMap(str(root), "boston-seaport")
    for lane in read.lane[:6]:
        poses = np.array(read.discretize_lanes([lane["token"]], 1.0)[lane["token"]])
        x, y = poses[len(poses) // 2, :2]
        assert read.get_next_roads(float(x), float(y))["road_segment"]


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(root, tmp_path):
    assert generate(tmp_path / "again", OPTIONS, 1, ignore)
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    assert files == sorted(
        path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()
    )
    same, different, failed = filecmp.cmpfiles(root, tmp_path / "again", map(str, files), shallow=False)
    assert not different and not failed and len(same) == len(files)
    other = make_plan(Options(**{**OPTIONS.to_dict(), "seed": 12}))
    assert other.scenes[0].poses != make_plan(OPTIONS).scenes[0].poses


def test_a_larger_scale_gives_larger_maps(root, tmp_path):
    options = Options(scenes=1, samples_per_scene=1, seed=11, images=False, map_scale=1.5)
    assert generate(tmp_path / "large", options, 1, ignore)
    for location in LOCATIONS:
        growth = len(expansion(tmp_path / "large", location)["node"]) / len(expansion(root, location)["node"])
        assert 1.2 < growth < 2.6
