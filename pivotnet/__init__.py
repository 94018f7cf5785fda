"""PivotNet for Ascend NPUs: six camera images in, a vectorised HD map out."""

__version__ = "0.2.1"
