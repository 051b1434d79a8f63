"""Faces in head CT and MR: the cranium is found in the whole series, and what lies before and below it is blanked."""
