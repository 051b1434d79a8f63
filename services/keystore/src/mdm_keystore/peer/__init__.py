"""The other keystores, and this one as one of them."""
