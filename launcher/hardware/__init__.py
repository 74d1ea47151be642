"""Hardware: GPUs by NVML, the CPU and memory this process may really use."""
