"""Pages of KV memory and the prefix cache over them. Integers only."""
