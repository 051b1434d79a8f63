"""What curators and operators may see and decide."""
