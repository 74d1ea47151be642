"""The detached supervisor's program: `python -m launcher.app.supervise SERVICE [BEGAN]`.

The service folder must not know the engine's, so the two are joined here: the supervisor is given
the classifier that tells from a log why an engine died.
"""

from __future__ import annotations

import sys

from launcher.errors import QlaunchError
from launcher.service import store
from launcher.service.supervision import supervise
from launcher.service.supervisor.timing import Dependencies


def wiring() -> Dependencies:
    """What the supervisor of a real service is given."""
    from launcher.engine.failures.classify import classify

    return Dependencies(classify=classify)


def main(argv: list[str]) -> int:
    """Supervise the service named in `argv[0]`; the exit code its life ended with."""
    name = argv[0]
    began = float(argv[1]) if len(argv) > 1 else None
    try:
        where = store.folder(name, create=True)
        state = supervise(where, wiring(), began=began)
    except QlaunchError as error:
        sys.stderr.write(f"{error.message}\n")
        return int(error.exit_code)
    return state.failure.exit_code if state.failure is not None else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
