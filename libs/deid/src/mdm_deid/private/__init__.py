"""Makers' private containers: what converters need, built anew from numbers."""
