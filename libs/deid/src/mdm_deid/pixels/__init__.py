"""Pixel data: what they hold besides pixels, and regions that are blanked."""
