"""The command line: one file a command, one renderer.

Elsewhere than on Linux it ends here, with a sentence or a document, before a module is imported
that exists on Linux alone.
"""

import sys

if sys.platform != "linux":
    _MESSAGE = f"qlaunch runs on Linux only, and this is {sys.platform}"
    _FIX = "a Linux machine, a container, or WSL 2 on Windows"
    if "--json" not in sys.argv:
        sys.exit(f"Error: {_MESSAGE}\n  Try: {_FIX}")
    import json

    _ERROR = {"code": "not_linux", "message": _MESSAGE, "fix": _FIX}
    _DOCUMENT = {"version": 1, "command": "qlaunch", "status": "error", "exit_code": 1, "data": {}}
    sys.stdout.write(json.dumps({**_DOCUMENT, "errors": [_ERROR]}, indent=2) + "\n")
    sys.exit(1)
