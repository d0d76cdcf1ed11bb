"""Writing of bundles: export, calibration ranges, known answers, model card."""
