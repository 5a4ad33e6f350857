"""``python -m gaudi3_rt.cli`` is ``gaudi3-rt``."""

from gaudi3_rt.cli import main

main()
