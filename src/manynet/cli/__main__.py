"""`python -m manynet.cli`: the command line, as `torchrun -m` wants it."""

import sys

from manynet.cli import main

sys.exit(main())
