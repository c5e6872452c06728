"""The gate before step 1: what the user's own rows, model and machine say about a run, without loading weights."""
