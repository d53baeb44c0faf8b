"""Kernels in other languages, written for the comparison."""
