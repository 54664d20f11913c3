"""Tasks, threads, signals, timeouts, memory and files of the server's process."""
