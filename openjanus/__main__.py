"""The command `openjanus`, also as `python -m openjanus`.

Process 1 of a container has no default handling of signals: without handlers they are lost. So the first ones are set
before anything else is imported; `serve` replaces them (serve/signals.py).
"""

import os
import signal

if os.getpid() == 1:
    for _name in ("SIGTERM", "SIGHUP"):
        signal.signal(signal.Signals[_name], lambda number, _: os._exit(128 + number))

from openjanus.cli import main

if __name__ == "__main__":
    main()
