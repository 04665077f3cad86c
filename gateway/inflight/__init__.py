"""Requests in flight: their state, their attempts, and their repair. Knows no HTTP."""
