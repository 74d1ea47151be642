"""Benchmarks: scripts that measure qlaunch on this machine and write what they saw."""
