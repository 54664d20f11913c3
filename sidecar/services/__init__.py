"""What the server does: submissions, lifecycle, launchers, scaling, live output, health."""
