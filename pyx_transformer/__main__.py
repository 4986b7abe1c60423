"""`python -m pyx_transformer` is the `pyx-transformer` command."""

import sys

from pyx_transformer.cli import main

sys.exit(main())
