"""DICOM: series found, stacked and read; segmentations written."""
