"""Fetched images as other files: pictures, NIfTI volumes, BIDS trees."""
