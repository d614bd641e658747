"""The Keras optimizer around any rule: one batched update for the whole model."""

import contextlib
import functools
import logging
import math
import warnings

import keras
import numpy as np
from keras import ops

from tf_amalgam import gradients, stored
from tf_amalgam.advance import Place, advance
from tf_amalgam.checks import as_whole, check_number, check_whole, unknown
from tf_amalgam.chunks import arranged
from tf_amalgam.guard import Guard, Watch
from tf_amalgam.guarded import Kept, Moment, guarded_step
from tf_amalgam.layout import Layout, concat
from tf_amalgam.rules.rule import leaves

STATE_DTYPES = ("float32", "bfloat16", "float16")


class RuleOptimizer(keras.optimizers.Optimizer):
    """A `keras.optimizers.Optimizer` whose mathematics is a `rules.Rule`.

    All trainable tensors are updated at once, as one flat vector, so the cost of
    a step does not depend on how many tensors a model has.

    Args:
        rule: the update rule; deltas are multiplied by `learning_rate`.
        rule_weights: its weights by name (`{}` for an analytic rule).
        learning_rate: float or `keras.optimizers.schedules.LearningRateSchedule`.
        warmup_steps: number of first steps taken by plain SGD while the rule only
            observes the gradients (Huang et al. 2022, C.3).
        warmup_learning_rate: SGD's learning rate during these steps.
        state_dtype: of the recurrent state: "float32", or "bfloat16" or "float16" to
            halve it (RNNProp: 168 instead of 328 bytes a parameter). Moments, which
            such numbers cannot average, and all computations stay in float32.
        chunk_size: a larger model's coordinates are updated at most so many at a time,
            so that the working memory of a step is bounded; rules that couple
            coordinates (Scale) update all at once. None: on a CPU under TensorFlow
            2,064 of a recurrent rule, row by row in the state's own memory, as soon
            as a model has more than 2¹³, in two blocks beside one another, in eight
            from 2¹⁶ on; of other rules up to 2¹⁶, of models of more than a
            million up to 2¹⁸, beyond 26 million 2¹⁴. On another backend 2¹⁴ of models
            of more than 2¹⁶; beside a GPU, which needs more at once to be busy, 2¹⁹.
        guard: True, or a `Guard`: an analytic rule takes over for a while where the
            rule's steps are not finite or out of bounds, the loss climbs, or the rule
            gains too little: less than a tenth of the loss in its first 300 steps, or
            less than half of what the other did, after a fall (losses are seen
            where Keras' `fit` scales it; not on JAX, nor on several replicas, nor under
            `mixed_float16`, nor inside a `MultiOptimizer`, nor of a `private_model`,
            nor in loops of your own that do not call `scale_loss`).
            Where it climbed, or too little was gained, parameters go back to where it
            was lowest, be it in an earlier `fit`: another training takes another
            optimizer. Steps whose gradient is not finite are left out. `guard_report`
            says what happened. 12 bytes a parameter.
        **kwargs: what every Keras optimizer takes: `name`, `weight_decay`,
            `clipnorm`, `clipvalue`, `global_clipnorm`, `use_ema`, `ema_momentum`,
            `ema_overwrite_frequency`, `loss_scale_factor`,
            `gradient_accumulation_steps`. As in Keras, weight decay is multiplied
            by the learning rate.
    """

    def __init__(
        self,
        rule,
        rule_weights,
        learning_rate=1.0,
        *,
        warmup_steps=0,
        warmup_learning_rate=0.01,
        state_dtype="float32",
        chunk_size=None,
        guard=None,
        **kwargs,
    ):
        if state_dtype not in STATE_DTYPES:
            raise ValueError(unknown("state_dtype", state_dtype, STATE_DTYPES))
        if chunk_size is not None:
            chunk_size = as_whole("chunk_size", chunk_size)
            check_whole("chunk_size", chunk_size, 1)
        if isinstance(learning_rate, int) and not isinstance(learning_rate, bool):
            learning_rate = float(learning_rate)
        if isinstance(learning_rate, float) and not 0.0 <= learning_rate < math.inf:
            raise ValueError(
                "learning_rate must be a finite number from 0, a schedule or a "
                f"function, received {learning_rate!r}."
            )
        warmup_steps = as_whole("warmup_steps", warmup_steps)
        check_whole("warmup_steps", warmup_steps, 0)
        if isinstance(warmup_learning_rate, np.number):
            warmup_learning_rate = warmup_learning_rate.item()
        check_number("warmup_learning_rate", warmup_learning_rate, above=True)
        super().__init__(learning_rate=learning_rate, **kwargs)
        self._rule = rule
        self.rule_weights = {
            k: np.asarray(v, "float32") for k, v in rule_weights.items()
        }
        self.warmup_steps = warmup_steps
        self.warmup_learning_rate = float(warmup_learning_rate)
        self.state_dtype, self.chunk_size = state_dtype, chunk_size
        self.guard = Guard.of(guard)
        self._loss = None  # of the step that is being taken, where it is known
        self._guarded: list = []  # what else the guard keeps, see `_kept`
        self._layout = Layout((), ())  # known when built
        self._chunks = (1, 1, 0)  # blocks, chunks of a block, coordinates of a chunk
        self._state: list = []  # blocks, lists of variables
        self._fallback: list = []  # the same of the guard's fallback

    @property
    def rule(self):
        """The update rule."""
        return self._rule

    def build(self, variables):
        """Creates the rule's state for these trainable variables."""
        if self.built:
            return
        for variable in variables:
            if "complex" in str(variable.dtype):
                raise ValueError(
                    f"{getattr(variable, 'path', variable.name)} is complex; the rules "
                    "are of real parameters. Keep its real and imaginary parts as two "
                    "variables."
                )
        super().build(variables)
        if not variables:  # of a model that is frozen as a whole
            return
        self._layout = Layout.of(variables)
        size = self._layout.size
        recurrent = self._rule.coordinatewise and bool(self._rule.recurrent)
        self._chunks = arranged(variables[0], size, self.chunk_size, recurrent)
        with self._beside(variables[0]):
            self._state = self._blocks_of(self._rule, self.state_dtype)
            if self.guard:
                fallback = self.guard.fallback
                self._fallback = self._blocks_of(fallback, "float32", "fallback_")
                self._guarded = [
                    # Of parameters that may not have their values yet: a model
                    # without an Input is built where the first step is traced.
                    self.add_variable((size,), dtype="float32", name="best_parameters"),
                    *(
                        self.add_variable((), dtype="float32", name=name)
                        for name in Watch._fields
                    ),
                ]

    @property
    def _kept(self) -> Kept | None:
        """What the guard keeps; Keras tracks lists of variables, but not tuples."""
        if not self._guarded:
            return None
        best, *watch = self._guarded
        return Kept(
            [list(block) for block in self._fallback],
            best,
            list(self._model_variables_moving_average) if self.use_ema else [],
            Watch(*watch),
        )

    def _blocks_of(self, rule, small_dtype, prefix=""):
        """Returns blocks of variables that hold a rule's state."""
        (blocks, count, size), layout = self._chunks, self._layout
        if rule.coordinatewise:
            # All start alike: one is enough, where a whole state may be gigabytes.
            layout = Layout(("one",), ((1,),))
        with _eagerly():
            state = rule.init_state(layout)

        def variable(block, place, path, part):
            field, shape = state._fields[place], tuple(part.shape)
            name = [field, *path] if blocks == 1 else [field, *path, block]
            return self.add_variable(
                shape=(count, *shape[:-1], size) if rule.coordinatewise else shape,
                initializer=functools.partial(_filled, part),
                dtype=small_dtype if field in rule.recurrent else "float32",
                name=prefix + "_".join(map(str, name)),
            )

        return [
            [variable(i, place, path, part) for (place, *path), part in leaves(state)]
            for i in range(blocks if rule.coordinatewise else 1)
        ]

    def get_config(self):
        config = super().get_config()
        config["warmup_steps"] = self.warmup_steps
        config["warmup_learning_rate"] = self.warmup_learning_rate
        config["state_dtype"] = self.state_dtype
        config["chunk_size"] = self.chunk_size
        config["guard"] = self.guard and self.guard.get_config()
        return config

    def save_own_variables(self, store):
        """Stores what Keras does, states `[…, P]` whatever their chunks."""
        stored.save(store, self._stored, self._layout.size)

    def load_own_variables(self, store):
        """Reads what `save_own_variables` stored, into chunks of this optimizer's size.

        As with Keras' own optimizers, the state of another model (or of this one with
        other layers frozen) is left, with a warning.
        """
        items = self._stored
        if other := stored.misfit(store, items, self._layout.size, self.built):
            warnings.warn(
                f"Skipping variable loading for optimizer '{self.name}', which begins "
                f"anew: {other}",
                stacklevel=2,
            )
            return
        stored.load(store, items)

    @property
    def _stored(self) -> list:
        """What is stored one by one: a variable, or those of all blocks of a part."""
        coordinatewise = self._state if self._rule.coordinatewise else []
        return stored.items_of(self.variables, [self._fallback, coordinatewise])

    @contextlib.contextmanager
    def _beside(self, variable):
        """Places new variables as `variable` is placed (mirrored on its replicas)."""
        if keras.backend.backend() != "tensorflow":
            yield
            return
        strategy = self._distribution_strategy
        if isinstance(variable, keras.Variable):
            variable = variable.value  # TensorFlow's own
        # Made while a step is traced, variables would need their memory twice.
        alone = strategy.num_replicas_in_sync == 1
        with (
            _eagerly() if alone else contextlib.nullcontext(),
            strategy.extended.colocate_vars_with(variable),
        ):
            yield

    def scale_loss(self, loss):
        """Returns the loss as Keras scales it; the guard takes note of it."""
        if self.guard and keras.backend.backend() != "jax":  # there it is a tracer
            self._loss = ops.stop_gradient(ops.mean(loss))  # one of several numbers
        return super().scale_loss(loss)

    def forget_loss(self):
        """Leaves the guard without the loss of the step that is being taken."""
        self._loss = None

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        """As Keras'; what is given stays as it is."""
        if keras.backend.backend() == "torch":  # states are changed in place
            optimizer_variables = [ops.copy(v) for v in optimizer_variables]
        return super().stateless_apply(optimizer_variables, grads, trainable_variables)

    def finalize_variable_values(self, var_list):
        super().finalize_variable_values(var_list)
        report = self.guard_report
        if report.get("fallback_steps"):
            logging.warning("%s: the guard fell back: %s", self.name, report)
        elif any(report.values()):
            logging.warning("%s: the guard left steps out: %s", self.name, report)

    @property
    def guard_report(self) -> dict:
        """What the guard saw, in numbers of steps: `{}` without one.

        `gradient_not_finite`: left out; `out_of_bounds`, `loss_climbed`,
        `gained_too_little`: after which the fallback took over; `fallback_steps`: taken
        by it; `fallback_left`: to come.
        """
        if not self._kept:
            return {}
        watch = Watch(*(float(ops.convert_to_numpy(v)) for v in self._kept.watch))
        return {
            "gradient_not_finite": int(watch.gradients),
            "out_of_bounds": int(watch.bounds),
            "loss_climbed": int(watch.climbs),
            "gained_too_little": int(watch.lags),
            "fallback_steps": int(watch.fallback_steps),
            "fallback_left": int(watch.left),
        }

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        loss, self._loss = self._loss, None
        places = [self._get_variable_index(v) for v in trainable_variables]
        kept = self._kept
        if kept:
            averages = [kept.averages[i] for i in places] if kept.averages else []
            kept = kept._replace(averages=averages)
        if keras.backend.backend() != "tensorflow":
            gradients.check_shapes(grads, trainable_variables)
            own = (self._state, kept)
            self._update(grads, trainable_variables, *own, places, learning_rate, loss)
            return
        import tensorflow as tf

        variables = [
            v.value if isinstance(v, keras.Variable) else v for v in trainable_variables
        ]
        # Of several replicas each knows its own loss alone.
        several = self._distribution_strategy.num_replicas_in_sync > 1
        known = gradients.is_here(loss) and not several
        dense = gradients.dense(grads, trainable_variables)
        pairs = self._all_reduce_sum_gradients(list(zip(dense, variables, strict=True)))
        tf.__internal__.distribute.interim.maybe_merge_call(
            self._update_on_each_replica,
            self._distribution_strategy,
            [grad for grad, _ in pairs],
            variables,
            kept,
            places,
            learning_rate,
            loss if known else None,
        )

    def _update_on_each_replica(
        self, distribution, grads, variables, kept, places, learning_rate, loss
    ):
        def update(_, grads, variables, state, kept, learning_rate, loss):
            own = (state, kept)
            self._update(grads, variables, *own, places, learning_rate, loss)

        own = [
            each and keras.tree.map_structure(lambda v: v.value, each)
            for each in (self._state, kept)
        ]
        distribution.extended.update(
            variables[0],
            update,
            args=(grads, variables, *own, learning_rate, loss),
            group=False,
        )

    def _update(self, grads, variables, state, kept, places, learning_rate, loss):
        """Assigns the rule's update to variables and state."""
        step = ops.cast(self.iterations + 1, "float32")
        place = Place(self._layout, places)
        params_P = every_P = _flat(variables)
        if kept and loss is not None and not place.whole:
            every_P = _flat(self._trainable_variables)
        now = Moment(
            grads_P=ops.cast(concat(grads), "float32"),
            params_P=params_P,
            every_P=every_P,
            step=step,
            rate=ops.cast(learning_rate, "float32"),
            warm=step <= self.warmup_steps if self.warmup_steps else None,
            last_warm=step == self.warmup_steps if self.warmup_steps else None,
            loss=loss,
        )
        own_step = functools.partial(self._own_step, state, place)
        if kept:
            delta_P, back, best_P = guarded_step(self.guard, kept, place, now, own_step)
            deltas, bests = place.part.split(delta_P), place.part.split(best_P)
            for variable, delta, best in zip(variables, deltas, bests, strict=True):
                before = ops.convert_to_tensor(variable)
                after = before + ops.cast(delta, before.dtype)
                best = ops.cast(best, before.dtype)
                self.assign(variable, ops.where(back, best, after))
            return
        delta_P = own_step(now, now.warm)
        for variable, delta in zip(variables, place.part.split(delta_P), strict=True):
            self.assign_add(variable, ops.cast(delta, variable.dtype))

    def _own_step(self, state, place, now, held, afresh=None):
        """Returns the warm-up's step or the rule's; the rule's state is assigned.

        Args:
            now: the `Moment`.
            held, afresh: see `advance`.
        """
        seen = (now.grads_P, now.params_P, now.step)
        own = (self._rule, self.rule_weights, state, place)
        delta_P = now.rate * advance(*own, *seen, held=held, afresh=afresh)
        if now.warm is None:
            return delta_P
        return ops.where(now.warm, -self.warmup_learning_rate * now.grads_P, delta_P)


def _eagerly():
    """Returns a context in which values are known, also where TensorFlow traces."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.init_scope()


def _flat(variables):
    """Returns the values of variables as one vector `[P]` of float32."""
    values = concat([ops.convert_to_tensor(v) for v in variables])
    return ops.cast(values, "float32")


def _filled(part, shape, dtype):
    """Returns a part of a state, broadcast to its whole shape."""
    number = float(ops.convert_to_numpy(part).flat[0])
    if np.all(ops.convert_to_numpy(part) == number):  # no two copies of gigabytes
        return ops.full(shape, number, dtype)
    # Copied, since PyTorch's broadcast is a view of one number, which cannot be
    # written to.
    return ops.copy(ops.broadcast_to(ops.cast(part, dtype), shape))
