#!/usr/bin/env python3
"""Put our lines into the official codebases under vendor/, take them out, show and check them.

python tools/apply_patches.py --help. The work is done in tools/overlay/.
"""

from overlay.cli import main

if __name__ == "__main__":
    main()
