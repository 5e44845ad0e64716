"""Kernels that hold a whole training loop, generated for a shape as C++ and compiled by NVIDIA Warp."""
