"""Towns: polygons that are valid and fit together without gaps, and the classes that samples show."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from shapely.geometry import LineString, Polygon

from pivotnet.synthetic.plan import Options, is_val, make_plan
from pivotnet.synthetic.town import LANE_WIDTH, LOCATIONS, build_town


@pytest.fixture(scope="module", params=range(6))
def town(request):
    return build_town(LOCATIONS[request.param % 4], 4, np.random.default_rng(request.param))


def test_road_segments_are_valid_and_meet_without_gaps_or_overlaps(town):
    parts = [Polygon(ring, [] if hole is None else [hole]) for ring, hole, _ in town.segments]
    assert all(part.is_valid and part.exterior.is_ccw for part in parts)
    paved = town.paved()
    assert paved.geom_type == "Polygon", "all streets are connected"
    assert paved.area == pytest.approx(sum(part.area for part in parts), abs=1e-6)
    # Euler: a connected planar street network encloses roads - junctions + 1 blocks
    islands = sum(road.median for road in town.roads)
    assert len(paved.interiors) == len(town.roads) - len(town.junctions) + 1 + islands


def test_lanes_cover_the_road_and_crossings_interrupt_the_dividers(town):
    for road in town.roads:
        whole = Polygon(road.ring, [] if road.island is None else [road.island])
        lanes = [Polygon(np.concatenate([lane.right, lane.left[::-1]])) for lane in road.lanes]
        assert all(lane.is_valid and lane.exterior.is_ccw for lane in lanes), "left is left in driving direction"
        assert shapely.union_all(lanes).symmetric_difference(whole).area < 1e-6
        crossed = shapely.union_all([Polygon(crossing.corners) for crossing in road.crossings])
        for divider in road.dividers:
            line = LineString(divider.line)
            assert whole.buffer(1e-6).contains(line) and not crossed.intersects(line)
        between = sum(shapely.length(LineString(d.line)) for d in road.dividers if d.layer == "road_divider")
        assert road.backward == 0 or road.median or between > 0.5 * road.length
        for crossing in road.crossings:  # its long sides lead across the road
            sides = np.hypot(*(crossing.corners - np.roll(crossing.corners, -1, axis=0)).T)
            assert set(np.argsort(sides)[-2:]) == {0, 2} and sides[[0, 2]].min() >= len(road.lanes) * LANE_WIDTH - 0.1


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
