"""Cleaning of text: the values that identify a person, and the words that may be kept."""
