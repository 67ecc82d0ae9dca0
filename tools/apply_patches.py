#!/usr/bin/env python3
"""Insert our lines into the official codebases under vendor/, remove, show and check them.

See python tools/apply_patches.py --help. The work is done in overlay/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from any folder

from overlay.cli import main

if __name__ == "__main__":
    main()
