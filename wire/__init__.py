"""What two processes of Millrace must agree on, and nothing else."""
