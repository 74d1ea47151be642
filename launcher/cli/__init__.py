"""The command line: one file a command, one renderer.

Elsewhere than on Linux it ends here, with a sentence, before a module is imported that exists on
Linux alone.
"""

import sys

if sys.platform != "linux":
    sys.exit(
        f"Error: qlaunch runs on Linux only, and this is {sys.platform}\n"
        "  Try: a Linux machine, a container, or WSL 2 on Windows"
    )
