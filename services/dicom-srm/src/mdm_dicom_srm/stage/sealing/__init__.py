"""From a DICOM file to ciphertext."""
