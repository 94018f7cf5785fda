"""Towns: streets that fit together without gaps, and the classes that samples show."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from shapely.geometry import LineString, Polygon

from pivotnet.synthetic.plan import Options, is_val, make_plan
from pivotnet.synthetic.town import LOCATIONS, build_town


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
