"""A real Flux instance."""
