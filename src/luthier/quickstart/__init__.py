"""The quickstart: a small base model, rows to teach it, and the story of a run between two examinations.

`base/` is a Llama made from nothing by `recipes/quickstart/make_base.py`; `rows/` are instructions and Python functions
made by `recipes/quickstart/make_rows.py`. A config names them as `luthier:quickstart/base` and so on.
"""
