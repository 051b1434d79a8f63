"""Series as arrays: slices with their geometry, put in order, with the affine that places them in space."""
