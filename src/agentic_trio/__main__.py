"""``python -m agentic_trio`` is the command line."""

from agentic_trio.cli.main import main

if __name__ == "__main__":
    main()
