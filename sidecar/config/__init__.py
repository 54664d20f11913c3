"""Options, the environment and the addresses and values that they take."""
