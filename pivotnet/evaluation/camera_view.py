"""Lines on the ground, seen by a camera."""

from __future__ import annotations

import numpy as np

NEAR = 0.3  # metres in front of the camera; what is nearer is cut off


def project_ground_line(
    points: np.ndarray, rotation: np.ndarray, translation: np.ndarray, intrinsic: np.ndarray
) -> list[np.ndarray]:
    """A ground line as the camera sees it: pieces in front of the near plane, in pixels.

    The pinhole maps straight segments to straight segments, so cutting each at the near plane is exact.

    Args:
        points: [p, 2] ego frame (x forward, y left), metres, on the plane z = 0.
        rotation: [3, 3] camera to ego.
        translation: [3] camera's place in the ego frame, metres.
        intrinsic: [3, 3], pixels.

    Returns:
        polylines [k, 2] (u right, v down), pixels; they may leave the image.
    """
    ground = np.column_stack([points, np.zeros(len(points))])
    seen = (ground - translation) @ rotation  # [p, 3]: the inverse of a rotation is its transpose
    pieces: list[list[np.ndarray]] = []
    joined = False  # whether the piece at hand goes on
    for start, end in zip(seen[:-1], seen[1:]):
        ahead = start[2] >= NEAR, end[2] >= NEAR
        if not any(ahead):
            joined = False
            continue
        if not all(ahead):
            cut = start + (NEAR - start[2]) / (end[2] - start[2]) * (end - start)
            start, end = (start, cut) if ahead[0] else (cut, end)
        if not joined:
            pieces.append([start])
        pieces[-1].append(end)
        joined = ahead[1]
    projected = [np.array(piece) @ intrinsic.T for piece in pieces]
    return [piece[:, :2] / piece[:, 2:] for piece in projected]
