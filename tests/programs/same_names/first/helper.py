WHO = "first"
