"""`python -m mamba_unet`, the same as the command `mamba-unet`."""

import sys

from mamba_unet.cli import main

sys.exit(main())
