"""Forward-only migrations of the keystore's database."""
