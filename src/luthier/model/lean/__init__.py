"""The lean path: a Llama-shaped decoder with a plain adapter, forward and backward written out by hand."""
