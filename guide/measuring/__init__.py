"""The experiments behind the pictures of the guide. `python guide/measure.py` runs them."""
