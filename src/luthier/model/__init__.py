"""Weights, quantization, adapters, kernels."""
