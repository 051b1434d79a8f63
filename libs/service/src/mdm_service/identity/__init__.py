"""Who calls: certificates, trust, groups."""
