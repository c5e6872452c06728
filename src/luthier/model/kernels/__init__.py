r"""Triton kernels for the lean path on CUDA: each does in one pass over memory what plain torch does in several.

    norm.py        RMSNorm, also of a sum that it writes, and its gradient with the residual's added
    rope.py        rotation of queries and keys where they lie, and back
    gate.py        SwiGLU on gate|up side by side, and its gradient
    nf4.py         4-bit weights to the compute format, constants of the constants included
    fp8.py         rows to 8-bit floats with their scales
    attention.py   attention within short documents, and its gradients where they are wanted
    loss.py        cross-entropy of a chunk of logits, which become their own gradient
    copies.py      many matrices to other places, into another format, times their factors
    adamw.py       clipping and AdamW over one flat buffer

Their references are `luthier.model.lean.pieces`, `luthier.model.head` and bitsandbytes. Everything is computed in
float32 (float64 for float64) and rounded once, at the end; what attention multiplies in between is rounded as well.
Source: Tillet et al. 2019 for the language.

These files import triton, so nothing imports them but `luthier.model.kernels.choose`. On a CPU they run in Triton's
interpreter, when `TRITON_INTERPRET=1` is set before triton is imported: slow, and meant for tests.

Not covered: gradients of norms' weights (they are frozen), dropout, labels that are left out (there are none here).
"""
