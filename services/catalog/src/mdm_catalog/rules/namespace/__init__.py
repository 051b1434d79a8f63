"""Directories, files and links: making, finding, listing, changing, renaming and removing them."""
