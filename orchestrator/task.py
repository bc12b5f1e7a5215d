"""`python -m orchestrator.task`: the module path in Slurm job scripts written by orch before 0.2."""

import sys

from orchestrator.dispatch import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
