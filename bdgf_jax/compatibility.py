"""The one place that knows which version of JAX and Flax runs."""
