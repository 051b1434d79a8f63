"""Rules for attributes: tables of the standard, profiles, and the pass that applies them."""
