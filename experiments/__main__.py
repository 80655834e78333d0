"""`python -m experiments`, which can be stopped from its first moment; `commands` has what it does."""

import sys

from diffprune.runtime.interrupt import stoppable

if __name__ == "__main__":
    with stoppable():
        from experiments.commands import main  # takes a while to import
        sys.exit(main())
