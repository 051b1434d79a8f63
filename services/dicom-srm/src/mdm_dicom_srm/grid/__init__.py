"""Adapters to the grid services that registration writes to."""
