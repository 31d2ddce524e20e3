"""Kong's own side, for developers: a simulated gateway, trials, recordings played again, the doctor."""
