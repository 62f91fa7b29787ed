"""What the kernels cost: counted from their machine code, and timed."""
