"""Training: so far operations with their gradients."""
