"""Keystore: holds one share of every file key."""
