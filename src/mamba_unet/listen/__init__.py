"""A DICOM node: series come from a hospital's network, segmentations and reports go back.

It needs the extra `dicom` (pynetdicom).
"""
