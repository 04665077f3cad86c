"""From a batch to sampled ids: where integers become tensors."""
