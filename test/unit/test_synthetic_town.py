"""Towns: polygons that are valid and fit together without gaps, and what the annotation reads from the map."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from shapely.geometry import LineString, Point, Polygon

from pivotnet.synthetic import geometry
from pivotnet.synthetic.plan import SCENE_LENGTH, Options, is_val, make_plan
from pivotnet.synthetic.roads import LANE_WIDTH, MEDIAN_MARGIN, SECTION_STEP, Road
from pivotnet.synthetic.town import LOCATIONS, build_town

SEEDS = range(6)


@pytest.fixture(scope="module", params=SEEDS)
def town(request):
    return build_town(LOCATIONS[request.param % 4], 4, np.random.default_rng(request.param))


def straight(length: float, forward: int, backward: int, median: bool) -> Road:
    x = np.linspace(0, length, int(length / SECTION_STEP) + 1)
    return Road(0, 1, np.stack([x, np.zeros_like(x)], axis=1), forward, backward, True, median)


def test_road_segments_are_valid_and_meet_without_gaps_or_overlaps(town):
    parts = [Polygon(ring, [] if hole is None else [hole]) for ring, hole, _ in town.segments]
    assert all(part.is_valid and part.exterior.is_ccw for part in parts)
    paved = town.paved()
    assert paved.geom_type == "Polygon", "all streets are connected"
    assert paved.area == pytest.approx(sum(part.area for part in parts), abs=1e-6)
    # Euler: a connected planar street network encloses roads - junctions + 1 blocks
    islands = sum(road.median for road in town.roads)
    assert len(paved.interiors) == len(town.roads) - len(town.junctions) + 1 + islands


def test_lanes_and_dividers_lie_on_the_road(town):
    paved = town.paved().buffer(1e-6)
    shapely.prepare(paved)
    for road in town.roads:
        crossed = shapely.union_all([Polygon(crossing.corners) for crossing in road.crossings])
        for lane in road.lanes:
            ring = Polygon(np.concatenate([lane.right, lane.left[::-1]]))
            assert ring.is_valid and ring.exterior.is_ccw, "left of a lane is left in driving direction"
            assert paved.contains(ring)
        for divider in road.dividers:
            assert paved.contains(LineString(divider.line)) and not crossed.intersects(LineString(divider.line))


def test_the_long_sides_of_a_crossing_lead_across_the_road(town):
    crossings = [(road, crossing.corners) for road in town.roads for crossing in road.crossings]
    assert len(crossings) >= 8
    for road, corners in crossings:
        assert Polygon(corners).is_valid
        sides = np.hypot(*(corners - np.roll(corners, -1, axis=0)).T)
        assert set(np.argsort(sides)[-2:]) == {0, 2} and sides[[0, 2]].min() >= 2 * road.half_width - 0.1


def test_connectors_join_lanes_on_the_street_and_traffic_keeps_to_its_side(town):
    paved = town.paved().buffer(0.8)  # a sharp turn may touch the kerb
    shapely.prepare(paved)
    for connector in town.connectors:
        (first, entering), (second, leaving) = connector.entering, connector.leaving
        road, lane = town.roads[first], town.roads[first].lanes[entering]
        assert np.allclose(connector.line[0], lane.centre[-1])
        assert np.allclose(connector.line[-1], town.roads[second].lanes[leaving].centre[0])
        assert paved.contains(LineString(connector.line))
        if road.forward == road.backward:
            direction = lane.centre[-1] - lane.centre[-2]
            to_middle = road.centre[-1 if lane.forward else 0] - lane.centre[-1]
            assert (direction[0] * to_middle[1] - direction[1] * to_middle[0] > 0) == town.drive_right


def test_towns_have_straight_and_curved_roads_and_islands():
    towns = make_plan(Options()).towns.values()
    roads = [road for town in towns for road in town.roads]
    bends = [np.ptp(np.unwrap(np.arctan2(*np.diff(road.centre, axis=0).T[::-1]))) for road in roads]
    assert 0.1 < np.mean(np.array(bends) < 1e-6) < 0.6 and max(bends) > 0.3
    assert any(road.median for road in roads) and any(not road.backward for road in roads)


def test_a_divided_road_has_an_island_that_the_lanes_leave_out():
    road = straight(90.0, 2, 2, median=True)
    island = Polygon(road.island)
    tip = MEDIAN_MARGIN * SECTION_STEP
    assert island.bounds == pytest.approx((tip, -0.9, 90.0 - tip, 0.9))
    lanes = shapely.union_all([Polygon(np.concatenate([lane.right, lane.left[::-1]])) for lane in road.lanes])
    assert lanes.area == pytest.approx(Polygon(road.ring, [road.island]).area)
    assert lanes.area == pytest.approx(4 * LANE_WIDTH * 90.0), "the road is wider beside the island"
    layers = [divider.layer for divider in road.dividers]
    assert layers.count("road_divider") == 2 and layers.count("lane_divider") == 2


def test_a_crossing_interrupts_the_dividers():
    road = straight(60.0, 1, 1, median=False)
    ends = [divider.line[[0, -1], 0].tolist() for divider in road.dividers]
    assert ends == [[0.0, 60.0]]
    road.add_crossing(30.0, 4.0, 0.0)
    ends = [divider.line[[0, -1], 0].tolist() for divider in road.dividers]
    assert ends == [[0.0, 26.5], [33.5, 60.0]]


@pytest.mark.parametrize("seed", range(3))
def test_the_default_set_shows_all_classes_in_sixteen_training_samples(seed):
    plan = make_plan(Options(seed=seed))
    seen = {False: [], True: []}
    for number, scene in enumerate(plan.scenes):
        town = plan.towns[scene.location]
        classes = (
            shapely.multilinestrings([LineString(d.line) for road in town.roads for d in road.dividers]),
            shapely.multipolygons([Polygon(c.corners) for road in town.roads for c in road.crossings]),
            town.paved().boundary,
        )
        window = shapely.box(-28.5, -13.5, 28.5, 13.5)  # what annotation sees, less a margin
        for pose in scene.poses:
            found = [window.intersects(shapely.transform(shapes, pose.to_ego)) for shapes in classes]
            seen[is_val(number, len(plan.scenes))].append(sum(found))
    assert seen[False].count(3) >= 16 and seen[False].count(0) == 1, "one empty sample"
    assert len(seen[True]) == 6 and seen[True].count(3) >= 4


def test_the_car_drives_in_a_lane():
    plan = make_plan(Options(scenes=4, samples_per_scene=5, seed=7))
    for scene in plan.scenes:
        inside = plan.towns[scene.location].paved().buffer(-0.5)
        assert all(inside.contains(Point(pose.x, pose.y)) for pose in scene.poses)
        steps = np.diff([(pose.x, pose.y) for pose in scene.poses], axis=0)
        assert np.all(np.hypot(*steps.T) < SCENE_LENGTH / 4 + 1.0)


def test_a_line_is_resampled_between_two_distances():
    corner = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 3.0]])
    assert geometry.resample(corner, 1.0, 6.0, 1.0).tolist() == [[1, 0], [2, 0], [3, 0], [4, 0], [4, 1], [4, 2]]
    assert geometry.left_normals(corner[:2]).tolist() == [[0.0, 1.0], [0.0, 1.0]]
