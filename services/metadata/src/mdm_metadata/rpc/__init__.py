"""Converters between messages and the model: no rules, no SQL."""
