"""Trains the optimizers of the package's plan, one after another.

    amalgam-train-zoo --workdir=runs/zoo --gin_bindings='data_dir="…"' [--only=…]

By default in the form that fits one machine with two cores (gin_configs/forms/cpu.gin);
--gin_file=gin_configs/forms/released.gin --replicates=8 is the paper's scale, for four
GPUs; Choice of the large pool needs --gin_bindings='amalgamate.choice_rates="direct"'
there, as the released code's rates kill the Train net (docs/experiments.md). Entries
that say more than the scheme themselves (tf_amalgam/zoo/plan.toml names them) are
trained so under any form; min-max as the form has it is figure1_min_max_small, by
amalgamate. The same command continues; --list says how far each has come.
--export=FOLDER writes those that are finished there, each with its card.
"""

from absl import flags
from tf_amalgam_launch import binary

FORM = "gin_configs/forms/cpu.gin"

flags.DEFINE_multi_string("only", [], "Name of an entry of the plan; repeatable.")
flags.DEFINE_boolean("list", False, "Say how far each entry has come, and end.")
flags.DEFINE_string("export", None, "Folder to write finished ones and cards to.")
flags.DEFINE_integer(
    "replicates", 0, "Runs of each, of which the best one is exported; 0 is one run."
)
binary.define_launcher_flags()
binary.define_gin_flags()


def main(_=None):
    """Runs `bindings.train_zoo` under the flags."""
    from tf_amalgam import bindings, plan

    given = binary.FLAGS
    if (given.parallel > 1 or given.launcher == "ray") and not given.replicates:
        raise ValueError(
            "--parallel and --launcher are of replicates; give --replicates, too."
        )
    if not given.list:
        bindings.train_zoo(
            given.only,
            given.gin_file,
            given.gin_bindings,
            given.workdir,
            given.replicates,
            binary.launcher(),
            given.export,
            binary.command("amalgam-train-zoo"),
            given.job_cpus,
            given.job_gpus,
        )
    print(plan.standing(given.workdir))


def entry():
    """Console entry point."""
    flags.FLAGS.set_default("gin_file", [FORM])
    binary.start(main)


if __name__ == "__main__":
    entry()
