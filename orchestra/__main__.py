"""`python -m orchestra` is the `orchestra` command."""

from __future__ import annotations

from orchestra.cli import main

if __name__ == "__main__":
    main()
