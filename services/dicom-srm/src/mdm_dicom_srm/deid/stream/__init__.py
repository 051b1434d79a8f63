"""Formats inside DICOM values, compressed pixels and colour profiles, walked by their grammar: what no image needs is overwritten."""
