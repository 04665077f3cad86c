"""From what a call has received to the bytes of its answer. Knows no network."""
