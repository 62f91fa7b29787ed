"""The selective scan of Mamba: one function, one truth, several implementations."""
