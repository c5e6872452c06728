"""Terminal and web views of a run; they read events and nothing else. Imports no torch."""
