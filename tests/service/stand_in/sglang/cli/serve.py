"""Nothing of the engine: the template imports it all the same.

STAND_IN_HANGS: whoever imports it for others (without a command of its own) never comes to an end.
"""

import os
import sys
import time

if os.environ.get("STAND_IN_HANGS") and len(sys.argv) == 1:
    time.sleep(3600)
