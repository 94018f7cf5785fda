"""Makes a small, valid data set in nuScenes' format."""
