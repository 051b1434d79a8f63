"""All keystores as one, and files under their keys."""
