"""Options of the server, its environment and its run directory."""
