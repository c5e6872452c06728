"""Loading a finished run and sampling from it."""
