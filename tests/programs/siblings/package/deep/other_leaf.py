TEXT = "other leaf"
