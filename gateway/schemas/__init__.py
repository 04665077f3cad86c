"""What clients send, as they send it. Bodies are checked against these; what they mean is decided elsewhere."""
