"""The self-check: a released file is searched for what identified its original."""
