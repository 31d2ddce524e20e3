"""Kong's PDK, for annotations."""
