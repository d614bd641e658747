"""Trains and evaluates a whole campaign, as a .gin file says: the paper's by default.

    amalgam-paper --plan --workdir=runs/paper --gin_bindings='data_dir="…"'
    amalgam-paper --workdir=runs/paper --gin_bindings='data_dir="…"' --launcher=ray

--plan prints how many jobs there are, in their order, and their hours by rates that
--measure has measured on this machine; it writes them, one a line, to jobs.jsonl.
Without it they are run. What is done is left as it is, so that the same command goes on
after an interrupt. --only chooses jobs by name, --share=3/100 every hundredth of those,
for an array job; --jobs takes them from a file, jobs.jsonl or what was made of it.
launch/README.md has them on Slurm, Kubernetes and Ray.
"""

import itertools
import pathlib

from absl import flags
from tf_amalgam_launch import binary

RECIPE = "gin_configs/experiments/paper_full.gin"

flags.DEFINE_boolean("plan", False, "Say what there is to do, and end.")
flags.DEFINE_boolean("measure", False, "Measure rates on this machine first.")
flags.DEFINE_string("jobs", None, "File of the jobs to run, as --plan writes them.")
flags.DEFINE_multi_string(
    "only", [], "Pattern of jobs (train/*, evaluate/*/adam/*); repeatable."
)
flags.DEFINE_string(
    "share", None, "I/N: run the jobs I, I + N, I + 2N, … of those chosen, I from 0."
)
binary.define_launcher_flags()
binary.define_gin_flags()


def main(_=None):
    """Plans or runs a campaign under the flags."""
    from tf_amalgam import campaign, jobs, rates, recipe

    given = binary.FLAGS
    folder = pathlib.Path(given.workdir)
    first, step = _share(given.share) if given.share else (0, 1)
    what = recipe.read(given.gin_file, given.gin_bindings)
    if given.measure:
        rates.measure(what, folder)

    def several():
        needs = (given.job_cpus, given.job_gpus)
        every = campaign.planned(what, folder, *needs)
        listed = jobs.read(given.jobs) if given.jobs else every
        return itertools.islice(jobs.chosen(listed, given.only), first, None, step)

    if given.plan:
        if not given.jobs:  # a list that was given may be the one it would write
            jobs.write(several(), folder / jobs.FILE)
        found = campaign.groups(several(), rates.hours(what, folder))
        print(campaign.table(found, campaign.read_rates(folder).machine))
        print(f"Jobs, one a line: {given.jobs or folder / jobs.FILE}")
        return
    recipe.run(what, list(several()), folder, binary.launcher(False))


def _share(text):
    """Returns the numbers of a share, `"3/100"`."""
    first, _, step = text.partition("/")
    if first.isdecimal() and step.isdecimal() and int(first) < int(step):
        return int(first), int(step)
    raise ValueError(f"--share must be I/N, I from 0 to N − 1; received {text!r}.")


def entry():
    """Console entry point."""
    flags.FLAGS.set_default("gin_file", [RECIPE])
    binary.start(main)


if __name__ == "__main__":
    entry()
