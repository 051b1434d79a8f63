"""Pixel data: hidden content besides the pixels, and the blanking of regions."""
