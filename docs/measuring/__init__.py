"""The experiments behind the pictures of the guide. `python docs/measure.py` runs them."""
