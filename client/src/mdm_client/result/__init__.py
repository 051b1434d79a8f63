"""Results: files that a user puts into a site's result space, encrypted on the user's machine."""
