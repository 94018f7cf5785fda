"""Written tables and maps: the unmodified nuscenes-devkit reads them, tokens resolve, the seed decides every byte."""

from __future__ import annotations

import filecmp
import json
from dataclasses import replace
from pathlib import Path

import pytest

from pivotnet.synthetic.generate import generate
from pivotnet.synthetic.nuscenes_tables import TABLES
from pivotnet.synthetic.plan import TRAIN_RUNS, VAL_RUNS, Options, make_plan, scene_names
from pivotnet.synthetic.town import LOCATIONS

OPTIONS = Options(scenes=6, samples_per_scene=2, seed=11, images=False)


def make(folder: Path, **options) -> Path:
    assert generate(folder, replace(OPTIONS, **options), 1, lambda done, total: None)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("synthetic") / "set")


def test_scene_names_are_from_nuscenes_own_splits():
    splits = pytest.importorskip("nuscenes.utils.splits")
    for runs, official in ((TRAIN_RUNS, splits.train), (VAL_RUNS, splits.val)):
        numbers = [number for first, last in runs for number in range(first, last + 1)]
        assert {f"scene-{number:04d}" for number in numbers} <= set(official)
    assert len(set(scene_names(400))) == 400


def test_all_tables_are_there_and_their_tokens_resolve(root):
    tables = {path.stem: json.loads(path.read_text()) for path in (root / "v1.0-trainval").iterdir()}
    assert set(tables) == set(TABLES) and len(TABLES) == 13
    known = {name: {record["token"] for record in records} for name, records in tables.items()}
    for name, records in tables.items():
        assert len(known[name]) == len(records)
        for record in records:
            for field, value in record.items():
                if field.endswith("_token"):
                    assert value in known[field[: -len("_token")].replace("first_", "").replace("last_", "")]
                if field in ("prev", "next"):
                    assert value == "" or value in known[name]
    assert len(tables["sample_data"]) == 7 * len(tables["sample"]) == 7 * 12
    assert sorted(token for record in tables["map"] for token in record["log_tokens"]) == sorted(known["log"])


def test_the_devkit_loads_tables_and_maps(root):
    loaded = pytest.importorskip("nuscenes").NuScenes("v1.0-trainval", str(root), verbose=False)
    map_api = pytest.importorskip("nuscenes.map_expansion.map_api")
    maps = {location: map_api.NuScenesMap(str(root), location) for location in LOCATIONS}
    roads = []
    for sample in loaded.sample:
        assert len(sample["data"]) == 7
        log = loaded.get("log", loaded.get("scene", sample["scene_token"])["log_token"])
        lidar = loaded.get("sample_data", sample["data"]["LIDAR_TOP"])
        x, y, _ = loaded.get("ego_pose", lidar["ego_pose_token"])["translation"]
        roads.append(bool(maps[log["location"]].record_on_point(x, y, "road_segment")))
        assert bool(loaded.get("map", log["map_token"])["mask"].is_on_mask(x, y)[0]) == roads[-1]
    assert roads.count(False) == 1, "one sample is in open land"


def test_the_devkit_reads_what_the_annotation_needs(root):
    read = pytest.importorskip("nuscenes.map_expansion.map_api").NuScenesMap(str(root), LOCATIONS[3])
    whole = (read.canvas_edge[0] / 2, read.canvas_edge[1] / 2, read.canvas_edge[1], read.canvas_edge[0])
    layers = ["road_segment", "lane", "ped_crossing", "road_divider", "lane_divider"]
    for layer, shapes in read.get_map_geom(whole, 0.0, layers):
        assert len(shapes) == len(getattr(read, layer)) > 0
        assert all(shape.is_valid and not shape.is_empty for shape in shapes)
    for lane in read.lane[:6]:
        x, y = read.extract_polygon(lane["polygon_token"]).representative_point().coords[0]
        assert read.record_on_point(x, y, "lane") == lane["token"]
        assert read.get_next_roads(x, y)["road_segment"]


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(root, tmp_path):
    again = make(tmp_path / "again")
    files, others = ({path.relative_to(top) for path in top.rglob("*") if path.is_file()} for top in (root, again))
    assert files == others
    same, _, _ = filecmp.cmpfiles(root, again, map(str, files), shallow=False)
    assert len(same) == len(files)
    other = make_plan(replace(OPTIONS, seed=12))
    assert other.scenes[0].poses != make_plan(OPTIONS).scenes[0].poses
