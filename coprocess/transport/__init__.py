"""How calls come in and answers go out."""
