"""What becomes of each attribute: tables of the standard, profiles, and the pass that applies them."""
