"""The camera model of the pictures, and the pictures."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from support.divider_data import FORWARD, INTRINSIC, PLACE, one_divider, write_images

from pivotnet.annotation.format import Line
from pivotnet.config import MapConfig
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.drawing import COLOURS, NEAR, project_ground_line, render_sample
from pivotnet.evaluation.vector_map import MapLine

MAP = MapConfig()


def project(points):
    return project_ground_line(np.array(points, float), FORWARD, PLACE, INTRINSIC)


def test_the_parts_of_a_line_ahead_of_the_camera_are_projected():
    (line,) = project([[11, 0], [21, -2]])
    # 10 m ahead, 1.5 m below: 150 pixels below the centre; 20 m ahead, 2 m to the right
    np.testing.assert_allclose(line, [[800, 600], [900, 525]])
    assert project([[-10, 0], [-2, 3]]) == []
    (line,) = project([[-9, 2], [11, 2]])  # is cut at the near plane
    depth = 1000 * PLACE[2] / (line[:, 1] - 450)
    np.testing.assert_allclose(depth, [NEAR, 10])
    np.testing.assert_allclose(line[:, 0], 800 - 2000 / np.array([NEAR, 10]))
    pieces = project([[11, 3], [6, 3], [-9, 3], [-9, -3], [6, -3], [11, -3]])
    assert [len(piece) for piece in pieces] == [3, 3]
    assert (pieces[0][:, 0] < 800).all() and (pieces[1][:, 0] > 800).all()


@pytest.fixture
def sample(tmp_path):
    """A divider, a crossing and a boundary of one point in front of grey images."""
    annotation = one_divider("a", 80)
    annotation.ego_vectors += [Line(np.array([[20.0, 3], [20, -3]]), 1), Line(np.array([[5.0, 5]]), 2)]
    write_images(tmp_path, annotation)
    return annotation


def pixels_of(picture, label):
    """Pixels (BGR) that have the colour of a class."""
    colour = np.array(to_rgb(COLOURS[label]))[::-1] * 255
    return int((np.abs(picture - colour).max(-1) < 30).sum())


def test_a_prediction_stands_beside_the_truth(tmp_path, sample):
    predicted = [MapLine(np.array([[25.0, -8], [3, -2], [-25, -2]]), 2, 0.8)]
    render_sample(tmp_path / "both.png", "a", sample, tmp_path, MAP, predicted)
    render_sample(tmp_path / "truth.png", "a", sample, tmp_path, MAP)
    truth, both = (cv2.imread(str(tmp_path / f"{name}.png")).astype(float) for name in ("truth", "both"))
    # the lines in six images, from above and in the legend; of the boundary, which is a point, only the legend
    assert pixels_of(truth, 0) > 4000 and pixels_of(truth, 1) > 2000 and 20 < pixels_of(truth, 2) < 400
    assert truth.shape[1] > 2 * truth.shape[0]
    assert both.shape[1] > truth.shape[1] + 300 and pixels_of(both, 2) > 2000


def test_a_missing_image_is_reported_and_leaves_no_picture(tmp_path, sample):
    (tmp_path / sample.image_paths[4]).unlink()
    with pytest.raises(PivotNetError, match="camera image .*CAM_BACK.*missing"):
        render_sample(tmp_path / "a.png", "a", sample, tmp_path, MAP)
    assert not list(tmp_path.glob("*.png"))
