"""The file catalog."""
