"""Key splitting and streaming encryption of the Medical Data Manager."""
