"""Image files in memory: fetched and decrypted there, cached within bounds, read as DICOM."""
