"""The HTTPS door: staged ciphertext by WebDAV, Tape REST and DRS, for programs that do not speak gRPC."""
