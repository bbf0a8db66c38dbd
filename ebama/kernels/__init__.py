"""Compiled kernels and their loader; every one of them has a plain torch equivalent."""
