"""What the Linux kernel tells: processes, control groups, files."""
