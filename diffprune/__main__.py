"""`python -m diffprune`: one run, or with -m a sweep, from one Hydra configuration."""

from diffprune.runtime.interrupt import stoppable


def main() -> None:
    with stoppable():
        from diffprune.job import main  # takes a while to import
        main()


if __name__ == "__main__":
    main()
