"""What else could quantisation do?  Grids, steps and calibration text that no artifact uses, for measuring."""
