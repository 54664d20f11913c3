"""What runs in a process of its own beside a measurement: limits, load and watchers. Each prints JSON."""
