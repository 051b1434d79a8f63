"""DICOM at byte level: encodings, character sets, the Part 10 envelope."""
