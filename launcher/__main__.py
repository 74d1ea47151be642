"""`python -m launcher`, and what the script `qlaunch` calls."""

import signal


def main() -> None:
    """Run the command line; Ctrl-C while it is still imported ends it without a traceback."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing has begun that would have to stop
    from launcher.cli.main import entry

    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    entry()


if __name__ == "__main__":
    main()
