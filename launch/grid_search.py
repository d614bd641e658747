"""Tunes the learning rates of teachers on an optimizee, as a .gin file says.

    amalgam-grid-search --gin_file=gin_configs/experiments/grid_search.gin \
        --workdir=runs/grid --gin_bindings='data_dir="…"'

Experiments then include runs/grid/pool.gin. Finished runs are not run again.
"""

import pathlib

from tf_amalgam_launch import binary

binary.define_gin_flags()


def main(_=None):
    """Runs `tf_amalgam.grid_search` under the flags and prints its table."""
    from tf_amalgam import bindings

    flags = binary.FLAGS
    bindings.run("grid_search", flags.gin_file, flags.gin_bindings, flags.workdir)
    print((pathlib.Path(flags.workdir) / "grid.md").read_text())
    print(f"Tuned pool, to include: {flags.workdir}/pool.gin")


def entry():
    """Console entry point."""
    binary.start(main)


if __name__ == "__main__":
    entry()
