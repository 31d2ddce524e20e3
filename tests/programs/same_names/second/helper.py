WHO = "second"
