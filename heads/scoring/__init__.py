"""What scores are worth: metrics, cuts, intervals, thresholds, calibration, and the floors that a head must beat."""
