"""Pages and the files that they need, all served from here."""
