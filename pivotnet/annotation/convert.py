"""One sample: from its pose and its location's map to its annotation."""

from __future__ import annotations

import numpy as np
import shapely

from pivotnet.annotation.bezier import control_lines
from pivotnet.annotation.expansion import LocationMap
from pivotnet.annotation.format import Annotation, pad_pivots
from pivotnet.annotation.pivots import pivot_lines
from pivotnet.annotation.rasterize import rasterize
from pivotnet.annotation.tables import Sample
from pivotnet.annotation.vectors import ego_vectors
from pivotnet.config import MapConfig
from pivotnet.errors import PivotNetError


def convert_sample(sample: Sample, location: LocationMap, config: MapConfig, bezier: bool = False) -> Annotation:
    """Annotate one sample; ``bezier`` fits curves too (ctr_points).

    Raises:
        PivotNetError: the map's geometry around the sample cannot be clipped or joined.
    """
    try:
        lines = ego_vectors(location, *sample.translation, sample.yaw, config)
        (thin, thick), map_vectors = rasterize(lines, config)
    except shapely.errors.GEOSException as error:
        raise PivotNetError(
            f"the map {sample.location} around sample {sample.token} has broken geometry ({error}): fix the map"
        ) from error
    points, lengths = pad_pivots(pivot_lines(map_vectors, config))
    return Annotation(
        image_paths=sample.image_paths,
        trans=sample.trans,
        rots=sample.rots,
        intrins=sample.intrins,
        semantic_mask=(thin != 0).view(np.uint8),
        instance_mask=thin,
        instance_mask8=thick,
        ego_vectors=lines,
        map_vectors=map_vectors,
        ctr_points=control_lines(map_vectors, config) if bezier else [],
        pivot_points=points,
        pivot_lengths=lengths,
    )
