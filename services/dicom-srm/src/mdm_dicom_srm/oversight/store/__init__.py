"""What curators and operators see of the registry in PostgreSQL."""
