"""The embedded engine: jobs as processes of this machine."""
