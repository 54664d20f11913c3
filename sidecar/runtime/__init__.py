"""The process: background tasks, threads, signals, files and bounded resources."""
