"""`orch`, also as `python -m orchestrator`."""

import os
import signal

EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command line; a signal while its modules are imported ends it as one later does."""
    begun = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in begun.items():
        if handler != signal.SIG_IGN:  # a shell's background jobs ignore Ctrl-C
            signal.signal(number, lambda *_: os._exit(EXIT_INTERRUPTED))
    from orchestrator.cli import entry_point

    for number, handler in begun.items():
        signal.signal(number, handler)
    entry_point()


if __name__ == "__main__":
    main()
