"""`python -m smg_proto` is the smg-proto command."""

import sys

from smg_proto.cli import main

sys.exit(main())
