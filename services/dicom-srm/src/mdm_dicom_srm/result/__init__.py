"""Results: files that users give back, kept as ciphertext, named in the catalog once they are whole."""
