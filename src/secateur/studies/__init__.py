"""Published experiments, composed from the floors below."""
