"""Selection of fused kernels: parity with the reference module, then measured speed."""
