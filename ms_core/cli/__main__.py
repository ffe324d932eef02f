import sys

from ms_core.cli import app

if __name__ == "__main__":
    sys.exit(app())
