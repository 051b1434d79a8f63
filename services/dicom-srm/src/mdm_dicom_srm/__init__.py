"""DICOM-SRM: answers file requests with DICOM operations."""
