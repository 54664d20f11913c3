"""The chart as rendered by helm, without a cluster."""
