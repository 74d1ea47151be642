"""qlaunch: take a bare machine to a verified embedding endpoint on SGLang."""

__version__ = "0.1.0"
