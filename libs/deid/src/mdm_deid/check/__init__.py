"""The self-check: a released file is searched for the identifying values of its original."""
