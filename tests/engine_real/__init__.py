"""Tests with the real SGLang on this machine's CPU, through the real command line."""
