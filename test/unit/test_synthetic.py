"""``pivotnet synth``: its runs, what the unmodified nuscenes-devkit reads, its towns, and its pictures."""

import errno
import json
import os
from dataclasses import replace

import cv2
import numpy as np
import pytest
import shapely
from shapely.geometry import LineString, Polygon
from shapely.geometry.polygon import orient
from support.commands import fails

from pivotnet import cli
from pivotnet.annotation.folder import sample_path, split_path
from pivotnet.annotation.format import load_annotation
from pivotnet.annotation.runner import annotate
from pivotnet.errors import PivotNetError
from pivotnet.files import read_tokens
from pivotnet.synthetic import generate as generator
from pivotnet.synthetic.nuscenes_tables import TABLES
from pivotnet.synthetic.plan import Options, make_plan
from pivotnet.synthetic.town import LANE_WIDTH, LOCATIONS, build_town, left_normals, lengths_along, resample

SMALL = ["--scenes", "2", "--samples-per-scene", "1", "--no-images"]
OPTIONS = Options(scenes=6, samples_per_scene=2, seed=11, images=False)


def synth(out, *options):
    return cli.main(["synth", str(out), *(options or SMALL)])


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "set"
    assert generator.generate(folder, OPTIONS, 1)
    return folder


def test_images_are_there_for_every_key_frame_whatever_the_number_of_workers(tmp_path, capsys):
    for workers in "12":
        assert synth(tmp_path / workers, "--scenes", "1", "--samples-per-scene", "2", "--workers", workers) == 0
        assert "made in" in capsys.readouterr().out
    files = contents(tmp_path / "1")
    assert files == contents(tmp_path / "2") and len(list(tmp_path.iterdir())) == 2
    records = json.loads(files["v1.0-trainval/sample_data.json"])
    images = [files[record["filename"]] for record in records if record["fileformat"] == "jpg"]
    assert len(records) == 14 and len(images) == 12
    assert all(cv2.imdecode(np.frombuffer(image, np.uint8), -1).shape == (900, 1600, 3) for image in images)


def test_the_same_run_again_changes_nothing_and_another_one_is_refused(tmp_path, capsys):
    assert synth(tmp_path) == 0, "an empty folder is filled"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert synth(tmp_path) == 0
    assert "already there" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert "seed 0 there, 5 asked for" in fails(capsys, "synth", tmp_path, *SMALL, "--seed", "5")
    (tmp_path / "synthetic.json").unlink()
    assert "not empty" in fails(capsys, "synth", tmp_path, *SMALL)


def test_what_cannot_be_made_is_reported_in_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out, options, message in (("set", ["--scenes", "401"], "is outside"), ("file", SMALL, "is a file")):
        assert message in fails(capsys, "synth", tmp_path / out, *options)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def _die(root, options, of):
    os._exit(9)


def test_a_full_disk_an_interrupt_or_a_dead_worker_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patched, pytest.raises(PivotNetError, match="--workers"):
        patched.setattr(generator, "_write_images", _die)
        generator.generate(tmp_path / "set", Options(scenes=1, samples_per_scene=2), 2)
    for error, status in ((OSError(errno.ENOSPC, "No space left on device"), 2), (KeyboardInterrupt(), 130)):

        def stop(*_, error=error):
            raise error

        monkeypatch.setattr(generator.nuscenes_tables, "semantic_prior", stop)
        assert synth(tmp_path / "set") == status
    assert not list(tmp_path.iterdir())
    assert "No space left on device; free some space" in capsys.readouterr().err


def test_the_seed_decides_every_byte(root, tmp_path):
    assert generator.generate(tmp_path / "again", OPTIONS, 1)
    assert contents(tmp_path / "again") == contents(root)
    assert make_plan(replace(OPTIONS, seed=12)).scenes[0].poses != make_plan(OPTIONS).scenes[0].poses


def test_all_tables_are_there_and_their_tokens_resolve(root):
    tables = {path.stem: json.loads(path.read_text()) for path in (root / "v1.0-trainval").iterdir()}
    assert set(tables) == set(TABLES) and len(TABLES) == 13
    known = {name: {record["token"] for record in records} for name, records in tables.items()}
    for name, records in tables.items():
        assert len(known[name]) == len(records)
        for field, value in (pair for record in records for pair in record.items()):
            if field.endswith("_token"):
                assert value in known[field[: -len("_token")].replace("first_", "").replace("last_", "")]
            assert field not in ("prev", "next") or value == "" or value in known[name]
    assert len(tables["sample_data"]) == 7 * len(tables["sample"]) == 7 * 12
    assert sorted(token for record in tables["map"] for token in record["log_tokens"]) == sorted(known["log"])


def test_the_devkit_reads_tables_and_maps(root):
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
    read = maps[LOCATIONS[3]]
    whole = (read.canvas_edge[0] / 2, read.canvas_edge[1] / 2, read.canvas_edge[1], read.canvas_edge[0])
    layers = ["road_segment", "lane", "ped_crossing", "road_divider", "lane_divider"]
    for layer, shapes in read.get_map_geom(whole, 0.0, layers):
        assert len(shapes) == len(getattr(read, layer)) > 0
        assert all(shape.is_valid and not shape.is_empty for shape in shapes)
    for lane in read.lane[:6]:
        x, y = read.extract_polygon(lane["polygon_token"]).representative_point().coords[0]
        assert read.record_on_point(x, y, "lane") == lane["token"]
        assert read.get_next_roads(x, y)["road_segment"]


@pytest.mark.parametrize("seed", range(6))
def test_roads_fit_together_and_lanes_cover_them(seed):
    town = build_town(LOCATIONS[seed % 4], 4, np.random.default_rng(seed))
    parts = [Polygon(ring) for ring, _ in town.segments]
    assert all(part.is_valid and part.exterior.is_ccw for part in parts)
    paved = town.paved()
    assert paved.geom_type == "Polygon", "all streets are connected"
    assert paved.area == pytest.approx(sum(part.area for part in parts), abs=1e-6), "no gaps, no overlaps"
    # Euler: a connected planar street network encloses roads - junctions + 1 blocks
    assert len(paved.interiors) == len(town.roads) - len(town.junctions) + 1
    for road, whole in zip(town.roads, parts):
        lanes = [Polygon(np.concatenate([lane.right, lane.left[::-1]])) for lane in road.lanes]
        assert all(lane.is_valid and lane.exterior.is_ccw for lane in lanes), "left is left in driving direction"
        assert shapely.union_all(lanes).symmetric_difference(whole).area < 1e-6
        crossed = shapely.union_all([Polygon(crossing.corners) for crossing in road.crossings])
        lines = [(layer, LineString(line)) for layer, line in road.dividers]
        for _, line in lines:
            assert whole.buffer(1e-6).contains(line) and not crossed.intersects(line)
        between = sum(line.length for layer, line in lines if layer == "road_divider")
        assert road.backward == 0 or between > 0.5 * road.length
        for crossing in road.crossings:  # its long sides lead across the road
            sides = np.hypot(*(crossing.corners - np.roll(crossing.corners, -1, axis=0)).T)
            assert set(np.argsort(sides)[-2:]) == {0, 2} and sides[[0, 2]].min() >= len(road.lanes) * LANE_WIDTH - 0.1


@pytest.mark.parametrize("seed", range(3))
def test_the_default_set_shows_all_classes_in_sixteen_training_samples(tmp_path, seed):
    assert generator.generate(tmp_path / "set", Options(seed=seed, images=False), 1)
    annotate(tmp_path / "set", workers=1)
    classes = {}
    for split in ("train", "val"):
        tokens = read_tokens(split_path(tmp_path / "set", split))
        samples = [load_annotation(sample_path(tmp_path / "set", token)) for token in tokens]
        classes[split] = [sum(len(lengths) > 0 for lengths in one.pivot_lengths.values()) for one in samples]
    assert classes["train"].count(3) >= 16 and classes["train"].count(0) == 1, "one empty sample"
    assert len(classes["val"]) == 6 and classes["val"].count(3) >= 4


def painted_lines(town):
    """By class: lines of the map, and how far to the left of them are paint and asphalt, in metres."""
    parts = [orient(part) for part in shapely.get_parts(town.paved())]
    corners = [crossing.corners for road in town.roads for crossing in road.crossings]
    dividers = [line for road in town.roads for layer, line in road.dividers if layer == "road_divider"]
    return {
        "boundary": ([np.array(ring.coords) for p in parts for ring in (p.exterior, *p.interiors)], -0.14, 0.6),
        "crossing": ([side for four in corners for side in (four[:2], four[2:])], 0.0, 0.8),
        "divider": (dividers, 0.0, 3 * generator.LINE_WIDTH),
    }


def brightness(grey, camera, ground):
    """Brightness at ground points [n, 2] of the ego frame between 4 and 22 m ahead, nan elsewhere: [n]."""
    pixels, depths = camera.project(np.pad(ground, ((0, 0), (0, 1))))
    column, row = np.round(pixels).clip(-1, 9999).astype(int).T
    seen = (depths > 4) & (depths < 22) & (column >= 0) & (column < 1600) & (row >= 0) & (row < 900)
    values = np.full(len(ground), np.nan)
    values[seen] = grey[row[seen], column[seen]]
    return values


def test_paint_in_the_image_lies_on_the_lines_of_the_map():
    plan = make_plan(Options(scenes=4, samples_per_scene=2, seed=5))
    checked = dict.fromkeys(("boundary", "crossing", "divider"), 0)
    for drive, pose in ((scene, pose) for scene in plan.scenes for pose in scene.poses):
        town = plan.towns[drive.location]
        front = next(sensor for sensor in drive.sensors if sensor.channel == "CAM_FRONT")
        image = generator.draw_image(
            front, generator.around(pose, generator.ground_of(plan.options, drive.location)), 1.0
        )
        grey = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_GRAYSCALE)
        for name, (lines, *shifts) in painted_lines(town).items():
            for line in lines:
                line = resample(line, 0.9, lengths_along(line)[-1] - 0.9, 0.3)
                normals = left_normals(line)
                bright, dark = (brightness(grey, front, pose.to_ego(line + shift * normals)) for shift in shifts)
                both = ~(np.isnan(bright) | np.isnan(dark))
                if both.sum() >= 5:
                    assert np.median(bright[both]) > np.median(dark[both]) + 60
                    checked[name] += 1
    assert min(checked.values()) >= 3
