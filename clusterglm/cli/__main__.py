"""``python -m clusterglm.cli``, where the script ``clusterglm`` is not on the path."""

from clusterglm.cli import main

main()
