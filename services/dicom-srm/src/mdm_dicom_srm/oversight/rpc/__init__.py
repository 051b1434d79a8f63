"""Messages of curators and operators to calls and back."""
