"""Fetching files: names, staging, transfer, decryption."""
