"""What `bench.kernels` times: one file per group of kernels, with `cases(device)` and maybe `sweep(device)`."""
