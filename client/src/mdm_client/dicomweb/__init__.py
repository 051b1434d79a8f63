"""DICOMweb over the grid, as a library: QIDO-RS from metadata records, WADO-RS from files that are decrypted in this process only."""
