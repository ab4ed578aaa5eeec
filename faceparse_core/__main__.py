import sys

from faceparse_core.cli import main

sys.exit(main())
