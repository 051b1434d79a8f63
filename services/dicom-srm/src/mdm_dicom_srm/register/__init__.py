"""Registration: from a trigger to a published catalog entry."""
