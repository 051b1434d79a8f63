"""Staging: requests for files, the engine that retrieves, de-identifies and encrypts, and the spool of ciphertext."""
