"""Whether a model is better, shown by running the code that it writes."""
