"""From a DICOM file to ciphertext, several at once: the only place where staging holds plaintext."""
