"""Separate processes of a measurement: limits, load and watchers. Each prints JSON."""
