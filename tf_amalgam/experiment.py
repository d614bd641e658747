"""`amalgamate`: an optimizer of your own out of a pool of known ones."""

import dataclasses
import math
from typing import Any, NamedTuple

from tf_amalgam import cluster, given, optimizers, rules, run, saved
from tf_amalgam.checks import as_whole, check_whole
from tf_amalgam.curriculum import Curriculum
from tf_amalgam.meta_step import Players
from tf_amalgam.meta_train import Diverged, Trainer
from tf_amalgam.numerics import derive_seed
from tf_amalgam.perturbation import Perturbation
from tf_amalgam.rules.rule import Rule
from tf_amalgam.settings import PERTURBED, PRESETS, Settings
from tf_amalgam.workdir import CHOICE_FOLDER, Workdir

# The released schedule of a Choice rule: (truncations of an unroll, periods); with
# periods of 10 meta-epochs 180 meta-updates. (There validations are at 1,000 steps
# always, and the first period has no warm-up.)
CHOICE_STAGES = ((1, 1), (2, 1), (5, 3))


class Amalgam(NamedTuple):
    """A trained student.

    Attributes:
        rule: its update rule.
        weights: the best weights found, by name.
        settings: what it was trained with.
        history: figures of each meta-update (list of dicts).
        validations: figures of each validation (list of dicts; of `score` lower is
            better), the untrained student's first.
        finished: False if the run was interrupted.
        about: what it was trained with, ready for JSON.
        choice: the `Amalgam` of the Choice rule that was its teacher, where there
            was one and this call trained it.
    """

    rule: Rule
    weights: dict
    settings: Settings
    history: list
    validations: list
    finished: bool
    about: dict
    choice: Any = None

    def optimizer(self, **kwargs):
        """Returns a fresh Keras optimizer, for one model."""
        options = {
            "warmup_steps": self.settings.warmup_steps,
            "warmup_learning_rate": self.settings.warmup_learning_rate,
        }
        return optimizers.optimizer_for(
            self.rule, self.weights, **{**options, **kwargs}
        )

    def save(self, path):
        """Writes the optimizer to a `.npz` file that `tf_amalgam.load` reads."""
        return saved.save(
            path,
            self.rule,
            self.weights,
            warmup_steps=self.settings.warmup_steps,
            warmup_learning_rate=self.settings.warmup_learning_rate,
            about=self.about,
        )


def amalgamate(
    task,
    teachers=None,
    scheme: str = "min_max",
    *,
    student="rnnprop",
    preset: str = "paper",
    workdir=None,
    stages=((100, 4),),
    period: int = 10,
    chances: int = 0,
    max_periods: int = 20,
    repeat_threshold: float | None = None,
    max_repeats: int = 4,
    alpha: float = 0.1,
    truncation_steps: int = 100,
    meta_batch: int = 4,
    meta_learning_rate: float = 1e-3,
    scaling: float = 3.0,
    warmup_steps: int = 100,
    second_order: bool = True,
    segment: int | None = None,
    distance: str | None = None,
    huber_delta: float | None = None,
    perturbation: Perturbation | None = None,
    input_noise: float = 0.0,
    choice=None,
    choice_stages=None,
    choice_repeat_threshold: float | None = 0.9,
    choice_scaling: float = 0.0,
    choice_rates: str | None = None,
    meta_loss_start: str | None = None,
    warmup_learning_rate: float | None = None,
    warmup_scaled: bool | None = None,
    adaptive_clip: float | None = None,
    reduction: str | None = None,
    validation_optimizees: int = 2,
    validation_steps: int | None = None,
    max_skipped: int = 10,
    seed: int = 0,
    replicate: int | None = None,
    initial_weights=None,
    strategy: str = "mirrored",
    replicas: int | None = None,
    checkpoint_seconds: float = 60.0,
    progress: bool = True,
    profile: bool = False,
) -> Amalgam:
    """Trains a student optimizer beside a pool of teachers; returns the `Amalgam`.

    The student optimizes a small network (the optimizee) again and again beside
    its teachers; truncated back-propagation through its unroll lowers the meta
    loss plus α times the distance to the teachers (Huang et al. 2022, 3.2, 3.3,
    Algorithm 1).

    Args:
        task: the optimizee, a `tf_amalgam.Task`.
        teachers: a pool's name (`"small"`, `"large"`, `"sgd_adam"`), or a sequence
            of teachers' names and rules; an empty one trains by meta loss alone. None
            is the pool of `choice` where a rule is given there, else `"small"`.
        scheme: `"mean"`, `"min_max"` or `"choice"`: a Choice rule first learns to mix
            the teachers, by meta loss alone, and is then the only teacher.
        student: name of a learned rule (`"rnnprop"`, `"original"`, `"scale"`,
            `"choice"`, `"learned_scalars"`), or the rule itself.
        preset: `"paper"` (as printed) or `"released"` (as the authors' code does
            it); sets what differs in rules given by name (normalizers, RMSProp's
            beta_2, what Original sees), and `distance`, `meta_loss_start`,
            `warmup_learning_rate`, `warmup_scaled`, `adaptive_clip`, `reduction`
            and `choice_rates` where these are None.
        workdir: folder for checkpoints, curves and the trained optimizer
            (`student.npz`, and `untrained.npz` to compare it with); the same call on
            the same folder continues an interrupted run. None keeps everything in
            memory.
        stages: sequence of `Stage`, or of tuples (inner steps of an unroll,
            periods, alpha or None, teacher forcing or not, meta-learning rate or None;
            the last three may be left out). A stage has steps / `truncation_steps` x
            periods x `period` meta-updates.
        period: meta-epochs between two validations; in one a fresh meta-batch is
            unrolled once, with a meta-update for each truncation.
        chances: a stage goes on until its best validation is so many periods old, to
            `max_periods` at most; 0 ends it after its periods.
        repeat_threshold: a period after which validation is worse than the stage's
            best by more than this share of it is done again, from the stage's best
            weights, `max_repeats` times at most; None never repeats. Without repeats a
            run may be lost to one bad period; the cpu forms have .5.
        alpha: weight of the imitation loss, unless a stage has its own.
        truncation_steps: inner steps of one truncation, T.
        meta_batch: optimizees whose meta-gradients make one meta-update.
        meta_learning_rate: Adam's, on the student's weights.
        scaling: random scaling s = exp(U(−scaling, scaling)); 0 turns it off. There is
            none in stages with teacher forcing.
        warmup_steps: SGD steps before an unroll, observed by every rule.
        second_order: False drops the optimizee's second derivatives (faster).
        segment: steps between kept rule states; None keeps as many as fit into
            320 MiB (224 beside teachers), and at least √T.
        distance: to a teacher: `"paper"`, log‖θ − θᵀ‖₂ (Eq. 2 to 4), or `"released"`,
            log(½ΣΔ² + 1e-10) − log P of randomly scaled coordinates Δ, with a
            `huber_delta` of Huber losses in place of ½Δ².
        meta_loss_start: what losses are relative to: the loss at the start of the
            `"unroll"` or of the `"truncation"`.
        perturbation: a `Perturbation` of the student's weights in meta-training.
        input_noise: σ of noise on the gradients that the student sees there.
        choice: for scheme `"choice"`: None trains a Choice rule over `teachers`, with
            the learning rates of `rules.choice_pool` for those given by name, and so
            does a mapping of other fields of `rules.Choice` (`{"rate_range": 3.0}`); a
            `rules.Choice` trains that one; a path or name of a trained one takes it
            as it is (shared by several students). Its pool must then be `teachers`,
            where these are given.
        choice_stages, choice_repeat_threshold: its own curriculum; by default periods
            with unrolls of 1, 2, 5, 5 and 5 truncations.
        choice_scaling: its own random scaling; none by default, unlike in the released
            recipe. Steps of SGD and its like grow with the square of a coordinate's
            scale, so that a large pool would explode under it.
        choice_rates: learning rates inside its pool of teachers given by name:
            `"direct"`, the same as outside, or `"released"`, up to ten times larger
            ones; by default the preset's. See docs/experiments.md.
        warmup_learning_rate: of the warm-up's SGD.
        warmup_scaled: warm up in randomly scaled coordinates.
        adaptive_clip: clips each tensor of each optimizee's meta-gradient to this
            share of its weights' norm; 0 turns it off.
        reduction: `"mean"` or `"sum"` of the meta-batch's gradients.
        validation_optimizees: fresh optimizees of one validation, each by a thousand
            held-out examples at most.
        validation_steps: their steps; by default the next stage's unroll.
        max_skipped: non-finite meta-gradients in a row after which to stop.
        seed: root of all randomness.
        replicate: number of this one among runs that differ in nothing else: its
            randomness is derived from `seed` and this number.
        initial_weights: name or path of a trained optimizer to start from, of the same
            rule, or of a Choice rule that lacks this one's rates or their agreement.
        strategy: which devices share the meta-batch: `"none"` is one device,
            `"mirrored"` those of this machine, `"multi_worker"` those of all machines
            that `TF_CONFIG` names (see `join_cluster`). The mathematics is the same.
        replicas: how many of this machine's devices share it, an optimizee each at a
            time; by default the fewest that need no more rounds for it than all would.
        checkpoint_seconds: at least this long between two checkpoints.
        progress: whether to show a progress bar, and at the end inner steps a second
            and what they took: optimizee, teachers, student, data.
        profile: whether to write a TensorBoard trace of one truncation (the second of
            this call) into `workdir`; of the Choice rule's too, if one is trained.

    Raises:
        ValueError: for any argument out of place, before any work starts; and if
            `workdir` holds another experiment, or a replicate beside it does.
        RuntimeError: if another process is training in `workdir`.
        Diverged: after `max_skipped` non-finite meta-gradients in a row; where a loss
            falls below 0, or no validation of the Choice rule to teach was finite.
        WorkerLost: if another machine's process has ended (`"multi_worker"`).
        KeyboardInterrupt: on Ctrl-C, after a checkpoint was written.
    """
    given.check(task, preset, perturbation, checkpoint_seconds)
    seed = as_whole("seed", seed)
    check_whole("replicate", replicate, 0, or_none=True)
    if profile and workdir is None:
        raise ValueError("profile=True writes a trace into workdir; give one.")
    chosen: dict[str, Any] = {
        "distance": distance,
        "meta_loss_start": meta_loss_start,
        "warmup_learning_rate": warmup_learning_rate,
        "warmup_scaled": warmup_scaled,
        "adaptive_clip": adaptive_clip,
        "reduction": reduction,
    }
    chosen = {k: PRESETS[preset][k] if v is None else v for k, v in chosen.items()}
    if perturbation is not None:
        perturbation = perturbation.under(**PERTURBED[preset])
    root = seed if replicate is None else derive_seed(seed, "replicate", replicate)
    settings = Settings(
        scheme=scheme,
        alpha=alpha,
        huber_delta=huber_delta,
        second_order=second_order,
        segment=segment,
        perturbation=perturbation,
        input_noise=input_noise,
        truncation_steps=truncation_steps,
        curriculum=Curriculum(
            given.stages(stages), chances, max_periods, repeat_threshold, max_repeats
        ),
        period=period,
        meta_batch=meta_batch,
        meta_learning_rate=meta_learning_rate,
        scaling=scaling,
        warmup_steps=warmup_steps,
        validation_optimizees=validation_optimizees,
        validation_steps=validation_steps,
        max_skipped=max_skipped,
        seed=root,
        validation_seed=seed,
        **chosen,
    )
    student = given.student(student, preset)
    weights, origin = given.initial_weights(student, initial_weights, root)
    devices = cluster.strategy(strategy, replicas, meta_batch)
    about = {
        "task": task.describe(),
        "student": rules.as_config(student),
        "preset": preset,
        "initial_weights": origin,
        **settings.describe(),
    }
    if replicate is not None:
        about |= {"replicate": replicate, "root_seed": seed}
    options = {
        "checkpoint_seconds": checkpoint_seconds,
        "progress": progress,
        "profile": profile,
    }
    if scheme != "choice":
        if choice is not None:
            raise ValueError(
                f"choice={choice!r} goes with scheme='choice'; the scheme is "
                f"{scheme!r}."
            )
        pool = given.pool(teachers, preset)
        about["teachers"] = [rules.as_config(rule) for rule in pool]
        players = Players(student, pool, tuple({} for _ in pool))
        trainer = Trainer(task, players, settings, devices)
        folder = Workdir(workdir, about) if workdir is not None else None
        return _learned(trainer, weights, folder, about, **options)
    teacher, teacher_weights, told = given.choice(
        choice, teachers, preset, choice_rates
    )
    about["teachers"] = [{**rules.as_config(teacher), **told}]
    if choice_stages is None:
        choice_stages = [(n * truncation_steps, p) for n, p in CHOICE_STAGES]
    choice_settings = dataclasses.replace(
        settings,
        alpha=0.0,
        perturbation=None,
        input_noise=0.0,
        scaling=choice_scaling,
        curriculum=Curriculum(
            given.stages(choice_stages, "choice_stages"),
            repeat_threshold=choice_repeat_threshold,
            max_repeats=max_repeats,
        ),
        seed=derive_seed(root, "choice"),
        validation_seed=derive_seed(seed, "choice"),
    )
    mixer, mixed, spent = None, None, 0.0
    if teacher_weights is None:
        about["choice"] = choice_settings.describe()
        mixer = Trainer(task, Players(teacher, (), ()), choice_settings, devices)
    folder = Workdir(workdir, about) if workdir is not None else None
    if mixer:
        mixed = _train_choice(mixer, about, folder, options)
        if not any(math.isfinite(row["score"]) for row in mixed.validations):
            raise Diverged(
                "No validation of the Choice rule was finite: it is the even mixture "
                "that it began as, and no teacher. Its members' steps kill the "
                'optimizee; try choice_rates="direct", or another pool.'
            )
        teacher_weights, spent = mixed.weights, mixed.about["seconds"]
    players = Players(student, (teacher,), (teacher_weights,))
    trainer = Trainer(task, players, settings, devices)
    learned = _learned(trainer, weights, folder, about, spent=spent, **options)
    return learned._replace(choice=mixed)


def _learned(trainer, weights, folder, about, **options):
    """Returns the `Amalgam` of a run, which is over or goes on until it is."""
    rule, settings = trainer.players.student, trainer.settings
    if folder is not None and (told := folder.over()):
        weights, history, validations, about = told
        return Amalgam(rule, weights, settings, history, validations, True, about)
    state = run.learn(trainer, weights, folder, about, **options)
    return Amalgam(
        rule,
        state.best.weights,
        settings,
        list(state.history),
        list(state.validations),
        trainer.done(state),
        run.outcome(about, state),
    )


def _train_choice(trainer, about, folder, options):
    """Returns the `Amalgam` of a Choice rule, trained by meta loss alone."""
    rule, settings = trainer.players.student, trainer.settings
    told = {
        "task": about["task"],
        "student": rules.as_config(rule),
        "preset": about["preset"],
        "initial_weights": "fresh",
        "teachers": [],
        **settings.describe(),
        "root_seed": about.get("root_seed", about["seed"]),
    }
    inner = Workdir(folder.path / CHOICE_FOLDER, told) if folder else None
    weights = rule.init_weights(derive_seed(settings.seed, "student"))
    return _learned(trainer, weights, inner, told, label="training Choice", **options)
