"""Towns: polygons that are valid, fit together without gaps, and carry what the map annotation reads."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from shapely.geometry import LineString, Point, Polygon

from pivotnet.synthetic import geometry, routes
from pivotnet.synthetic.layout import DIVIDED
from pivotnet.synthetic.plan import Options, make_plan
from pivotnet.synthetic.roads import Profile, Road
from pivotnet.synthetic.scene_names import is_val
from pivotnet.synthetic.town import LOCATIONS, build_town

SEEDS = range(6)


@pytest.fixture(scope="module", params=SEEDS)
def town(request):
    return build_town(LOCATIONS[request.param % 4], 4, np.random.default_rng(request.param))


def polygons(town):
    """Every road segment of a town."""
    rings = [(piece.ring, piece.hole) for road in town.layout.roads for piece in road.pieces()]
    rings += [(junction.ring, junction.hole) for junction in town.junctions]
    return [Polygon(ring, [] if hole is None else [hole]) for ring, hole in rings]


def test_road_segments_are_valid_and_meet_without_gaps_or_overlaps(town):
    parts = polygons(town)
    assert all(part.is_valid and part.exterior.is_ccw for part in parts)
    union = shapely.union_all(parts)
    assert union.geom_type == "Polygon", "all streets are connected"
    assert union.area == pytest.approx(sum(part.area for part in parts), abs=1e-6)


def test_every_hole_of_the_streets_is_a_block_or_an_island_of_the_plan(town):
    holes = [Polygon(ring) for ring in town.paved.interiors]
    islands = [Polygon(piece.hole) for road in town.layout.roads for piece in road.pieces() if piece.hole is not None]
    islands += [Polygon(junction.hole) for junction in town.junctions if junction.hole is not None]
    small = [hole for hole in holes if hole.area < 400.0]
    assert len(small) == len(islands) >= 2
    for island in islands:
        assert any(hole.symmetric_difference(island).area < 1e-6 for hole in small)
    # Euler: a connected planar street network encloses roads - junctions + 1 blocks
    assert len(holes) - len(small) == len(town.layout.roads) - len(town.junctions) + 1


def test_lanes_and_dividers_lie_on_the_road(town):
    paved = town.paved.buffer(1e-6)
    shapely.prepare(paved)
    for number, road in enumerate(town.layout.roads):
        for lane in town.lanes[number]:
            ring = Polygon(np.concatenate([lane.right, lane.left[::-1]]))
            assert ring.is_valid and ring.exterior.is_ccw, "left of a lane is left in driving direction"
            assert paved.contains(ring)
        for divider in road.dividers():
            assert paved.contains(LineString(divider.line))
            crossed = [Polygon(crossing.corners) for crossing in road.crossings]
            assert not any(LineString(divider.line).intersects(crossing) for crossing in crossed)


def test_the_long_sides_of_a_crossing_lead_across_the_road(town):
    crossings = [(road, crossing) for road in town.layout.roads for crossing in road.crossings]
    assert len(crossings) >= 8
    for road, crossing in crossings:
        assert Polygon(crossing.corners).is_valid
        sides = np.hypot(*(crossing.corners - np.roll(crossing.corners, -1, axis=0)).T)
        assert set(np.argsort(sides)[-2:]) == {0, 2}
        assert min(sides[0], sides[2]) >= 2 * road.profile.half_width - 0.1


def test_traffic_keeps_to_its_side(town):
    for connector in town.connectors:
        road, number = connector.entering
        lane = town.lane_at_end(road, number)
        if town.layout.roads[road].profile.backward == 0:
            continue
        direction = lane.centre[-1] - lane.centre[-2]
        to_middle = town.layout.roads[road].centre[-1 if lane.forward else 0] - lane.centre[-1]
        middle_is_left = direction[0] * to_middle[1] - direction[1] * to_middle[0] > 0
        profile = town.layout.roads[road].profile
        if profile.forward == profile.backward:
            assert middle_is_left == town.drive_right


def test_connectors_join_the_ends_of_lanes_on_the_street(town):
    paved = town.paved.buffer(0.8)  # a sharp turn may touch the kerb
    shapely.prepare(paved)
    for connector in town.connectors:
        assert np.allclose(connector.line[0], town.lane_at_end(*connector.entering).centre[-1])
        assert np.allclose(connector.line[-1], town.lane_at_start(*connector.leaving).centre[0])
        assert paved.contains(LineString(connector.line))


def test_nothing_of_the_map_is_seen_from_the_yard(town):
    sights = routes.Sights(town)
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert sights.classes(routes.park(town, rng)) == (False, False, False)


def test_a_divided_road_has_an_island_that_the_lanes_leave_out():
    line = np.stack([np.linspace(0, 90, 46), np.zeros(46)], axis=1)
    road = Road(0, 1, DIVIDED, True, line)
    (hole,) = [piece.hole for piece in road.pieces() if piece.hole is not None]
    island = Polygon(hole)
    assert island.bounds == pytest.approx((16.0, -0.9, 74.0, 0.9))
    lanes = [Polygon(np.concatenate([lane.right, lane.left[::-1]])) for lane in road.lanes()]
    # 4 lanes of 3.3 m and twice .9 m, 90 m long, less the island
    assert shapely.union_all(lanes).area == pytest.approx(90 * 15.0 - island.area)
    kinds = [divider.kind for divider in road.dividers()]
    assert kinds.count("road_divider") == 2 and kinds.count("lane_divider") == 2


def test_a_crossing_interrupts_the_dividers():
    line = np.stack([np.linspace(0, 60, 31), np.zeros(31)], axis=1)
    road = Road(0, 1, Profile(1, 1, 3.5, 0.0, 0.0), True, line)
    assert [divider.line[:, 0].tolist()[:: len(divider.line) - 1] for divider in road.dividers()] == [[0.0, 60.0]]
    road.add_crossing(30.0, 4.0, 0.0, "zebra")
    parts = [(divider.line[0, 0], divider.line[-1, 0]) for divider in road.dividers()]
    assert parts == [pytest.approx((0.0, 26.5)), pytest.approx((33.5, 60.0))]


def test_the_default_set_shows_all_classes_in_sixteen_training_samples():
    for seed in range(3):
        plan = make_plan(Options(seed=seed))
        sights = {location: routes.Sights(town) for location, town in plan.towns.items()}
        seen = {False: [], True: []}
        for number, scene in enumerate(plan.scenes):
            seen[is_val(number, len(plan.scenes))] += [sights[scene.location].classes(pose) for pose in scene.poses]
        assert sum(all(classes) for classes in seen[False]) >= 16
        assert sum(not any(classes) for classes in seen[False]) == 1, "one empty sample"
        assert len(seen[True]) == 6 and sum(all(classes) for classes in seen[True]) >= 4


def test_the_car_drives_in_a_lane():
    plan = make_plan(Options(scenes=4, samples_per_scene=5, seed=7))
    for scene in plan.scenes:
        paved = plan.towns[scene.location].paved
        assert all(paved.buffer(-0.5).contains(Point(pose.x, pose.y)) for pose in scene.poses)
        steps = np.diff(np.array([(pose.x, pose.y) for pose in scene.poses]), axis=0)
        assert np.all(np.hypot(*steps.T) < routes.spacing(5) + 1.0)


def test_cut_and_resample_keep_the_shape_of_a_line():
    corner = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 3.0]])
    assert geometry.cut(corner, 1.0, 6.0).tolist() == [[1.0, 0.0], [4.0, 0.0], [4.0, 2.0]]
    assert geometry.resample(corner, 1.0).shape == (8, 2)
    assert geometry.arc_lengths(geometry.resample(corner, 1.0))[-1] == pytest.approx(7.0)


def test_dashes_leave_gaps():
    line = np.array([[0.0, 0.0], [20.0, 0.0]])
    parts = [(part[0, 0], part[-1, 0]) for part in geometry.dashes(line, 3.0, 3.0)]
    assert parts == [(0, 3), (6, 9), (12, 15), (18, 20)]


def test_a_band_has_its_width_and_a_rectangle_its_heading():
    (quad,) = geometry.band(np.array([[0.0, 0.0], [10.0, 0.0]]), 0.5)
    assert Polygon(quad).area == pytest.approx(5.0)
    ring = geometry.rectangle(np.array([1.0, 2.0]), 6.0, 2.0, np.pi / 2)
    assert Polygon(ring).bounds == pytest.approx((0.0, -1.0, 2.0, 5.0)) and Polygon(ring).exterior.is_ccw


def test_rays_meet_where_they_cross_and_else_in_the_middle():
    p, q = np.array([0.0, 0.0]), np.array([4.0, 4.0])
    right, down = np.array([1.0, 0.0]), np.array([0.0, -1.0])
    assert geometry.meeting_point(p, right, q, down).tolist() == [4.0, 0.0]
    assert geometry.meeting_point(p, right, q, right).tolist() == [2.0, 2.0]
    assert geometry.meeting_point(p, -right, q, down).tolist() == [2.0, 2.0]
