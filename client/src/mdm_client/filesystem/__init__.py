"""The catalog as a file system: its tree, its files decrypted in this process, and fsspec's interface to both."""
