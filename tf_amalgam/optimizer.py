"""The Keras optimizer around any rule: one batched update for the whole model."""

import base64
import dataclasses

import keras
import numpy as np
from keras import ops, tree

from tf_amalgam import rules
from tf_amalgam.chunks import update_in_chunks
from tf_amalgam.layout import Layout, concat
from tf_amalgam.numerics import derive_seed
from tf_amalgam.rules.rule import AnalyticRule

PACKAGE = "tf_amalgam"
STATE_DTYPES = ("float32", "bfloat16", "float16")
# Coordinates of a chunk: some 200 MB of working memory for RNNProp.
CHUNK_SIZE = 2**17


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
        chunk_size: a larger model's coordinates are updated so many at a time, so that
            the working memory of a step is bounded; rules that couple coordinates
            (Scale) update all at once.
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
        chunk_size=CHUNK_SIZE,
        **kwargs,
    ):
        if state_dtype not in STATE_DTYPES:
            raise ValueError(rules.unknown("state_dtype", state_dtype, STATE_DTYPES))
        if not isinstance(chunk_size, int) or chunk_size < 1:
            raise ValueError(
                f"chunk_size must be a whole number from 1, received {chunk_size!r}."
            )
        if isinstance(learning_rate, int) and not isinstance(learning_rate, bool):
            learning_rate = float(learning_rate)
        if not isinstance(warmup_steps, int) or warmup_steps < 0:
            raise ValueError(
                "warmup_steps must be a whole number from 0, received "
                f"{warmup_steps!r}."
            )
        if not warmup_learning_rate > 0:
            raise ValueError(
                "warmup_learning_rate must be above 0, received "
                f"{warmup_learning_rate!r}."
            )
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.rule = rule
        self.rule_weights = {k: np.asarray(v) for k, v in rule_weights.items()}
        self.warmup_steps = warmup_steps
        self.warmup_learning_rate = float(warmup_learning_rate)
        self.state_dtype, self.chunk_size = state_dtype, chunk_size
        self._layout = Layout((), ())  # known when built
        self._state: list = []

    def build(self, variables):
        """Creates the rule's state for these trainable variables."""
        if self.built:
            return
        super().build(variables)
        self._layout = Layout.of(variables)
        layout, rows = self._layout, []
        if self.rule.coordinatewise:
            # All start alike: one is enough, where a whole state may be gigabytes.
            layout, rows = Layout(("one",), ((1,),)), [layout.size]
        state = self.rule.init_state(layout)
        with self._beside(variables[0]):
            for (place, *path), part in tree.flatten_with_path(state):
                field = state._fields[place]
                small = field in self.rule.recurrent
                self._state.append(
                    self.add_variable(
                        shape=(*rows, *part.shape[len(rows) :]),
                        initializer=lambda shape, dtype, part=part: ops.broadcast_to(
                            ops.cast(part, dtype), shape
                        ),
                        dtype=self.state_dtype if small else "float32",
                        name="_".join([field, *map(str, path)]),
                    )
                )

    def get_config(self):
        config = super().get_config()
        config["warmup_steps"] = self.warmup_steps
        config["warmup_learning_rate"] = self.warmup_learning_rate
        config["state_dtype"] = self.state_dtype
        config["chunk_size"] = self.chunk_size
        return config

    def _beside(self, variable):
        """Places new variables as `variable` is placed (mirrored on its replicas)."""
        if keras.backend.backend() != "tensorflow":
            return keras.name_scope("state")
        return self._distribution_strategy.extended.colocate_vars_with(variable.value)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        if keras.backend.backend() != "tensorflow":
            self._update(grads, trainable_variables, self._state, learning_rate)
            return
        import tensorflow as tf

        variables = [getattr(v, "value", v) for v in trainable_variables]
        if trainable_variables and isinstance(trainable_variables[0], tf.Variable):
            variables = list(trainable_variables)
        dense = [tf.convert_to_tensor(grad) for grad in grads]
        pairs = self._all_reduce_sum_gradients(list(zip(dense, variables, strict=True)))
        tf.__internal__.distribute.interim.maybe_merge_call(
            self._update_on_each_replica,
            self._distribution_strategy,
            [grad for grad, _ in pairs],
            variables,
            [self._known(v) for v in trainable_variables],
            learning_rate,
        )

    def _update_on_each_replica(
        self, distribution, grads, variables, places, learning_rate
    ):
        def update(_, grads, variables, state, learning_rate):
            self._update(grads, variables, state, learning_rate, places)

        distribution.extended.update(
            variables[0],
            update,
            args=(grads, variables, [s.value for s in self._state], learning_rate),
            group=False,
        )

    def _known(self, variable):
        return self._get_variable_index(variable)

    def _update(self, grads, variables, state, learning_rate, places=None):
        """Assigns the rule's update to variables and state."""
        if places is None:
            places = [self._known(v) for v in variables]
        grads_P = ops.cast(concat(grads), "float32")
        params_P = ops.cast(
            concat([ops.convert_to_tensor(v) for v in variables]), "float32"
        )

        def step_fn(grads, params, values, layout):
            return self._delta(grads, params, values, layout, learning_rate)

        layout, everything = self._layout, list(range(len(self._layout.shapes)))
        if self.rule.coordinatewise and grads_P.shape[0] > self.chunk_size:
            deltas = self._deltas_in_chunks(step_fn, state, grads_P, params_P, places)
            self._move(variables, deltas)
            return
        values = [ops.convert_to_tensor(part) for part in state]
        if places != everything:
            # Some variables got no gradient: like any Keras optimizer, leave them
            # and their state alone.
            whole = values
            values = [_of_tensors(value, self._layout, places) for value in whole]
            layout = layout.only(places)
        delta_P, values = step_fn(grads_P, params_P, values, layout)
        if places != everything:
            values = [
                _with_tensors(old, new, self._layout, layout, places)
                for old, new in zip(whole, values, strict=True)
            ]
        self._move(variables, layout.split(delta_P))
        for part, value in zip(state, values, strict=True):
            self.assign(part, ops.cast(value, part.dtype))

    def _deltas_in_chunks(self, step_fn, state, grads_P, params_P, places):
        """Returns the updates of the tensors at `places`; states are assigned."""
        found, done = [], 0
        for run in _runs(places):
            layout = self._layout.only(run)
            rows = slice(done, done + layout.size)
            delta_P = update_in_chunks(
                step_fn,
                state,
                grads_P[rows],
                params_P[rows],
                layout,
                self.chunk_size,
                first=sum(self._layout.sizes[: run[0]]),
            )
            found += layout.split(delta_P)
            done += layout.size
        return found

    def _move(self, variables, deltas):
        for variable, delta in zip(variables, deltas, strict=True):
            self.assign_add(variable, ops.cast(delta, variable.dtype))

    def _delta(self, grads_P, params_P, values, layout, learning_rate):
        """Returns (delta_P, state values) of a warm-up step or of the rule's own."""
        step = ops.cast(self.iterations + 1, "float32")
        empty = self.rule.init_state(Layout(("none",), ((0,),)))
        values = [ops.cast(value, "float32") for value in values]
        state = tree.pack_sequence_as(empty, values)
        weights = {k: ops.convert_to_tensor(v) for k, v in self.rule_weights.items()}

        def learned():
            delta_P, after = self.rule.update(
                weights, grads_P, params_P, state, layout, step
            )
            return ops.cast(learning_rate, "float32") * delta_P, tree.flatten(after)

        def warm_up():
            after = self.rule.observe(grads_P, state, step)
            return -self.warmup_learning_rate * grads_P, tree.flatten(after)

        if not self.warmup_steps:
            return learned()
        return ops.cond(step <= self.warmup_steps, warm_up, learned)


def _runs(places):
    """Returns places cut into runs of neighbours."""
    runs = [[places[0]]]
    for place in places[1:]:
        if place == runs[-1][-1] + 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs


def _of_tensors(value, layout, places):
    """Returns the part of a state that belongs to the tensors at `places`."""
    if value.shape[0] == layout.size:
        pieces = layout.segments(value)
        return ops.concatenate([pieces[i] for i in places], axis=0)
    if value.shape[0] == len(layout.shapes):
        return ops.take(value, ops.convert_to_tensor(places), axis=0)
    return value


def _with_tensors(old, new, layout, part, places):
    """Returns the whole state again, with the new values at `places`."""
    if old.shape[0] == layout.size:
        pieces = layout.segments(old)
        for i, piece in zip(places, part.segments(new), strict=True):
            pieces[i] = piece
        return ops.concatenate(pieces, axis=0)
    if old.shape[0] == len(layout.shapes):
        rows = [old[i : i + 1] for i in range(len(layout.shapes))]
        for n, i in enumerate(places):
            rows[i] = new[n : n + 1]
        return ops.concatenate(rows, axis=0)
    return new


class AnalyticOptimizer(RuleOptimizer):
    """Base of the teachers as Keras optimizers.

    Args:
        learning_rate: float or schedule; by default the rate that the paper's
            authors tuned for this optimizer as a direct teacher.
        **kwargs: hyperparameters of the rule, `warmup_steps`,
            `warmup_learning_rate`, and what every Keras optimizer takes.
    """

    rule_type: type[AnalyticRule]

    def __init__(self, learning_rate=None, **kwargs):
        if learning_rate is None:
            learning_rate = rules.LEARNING_RATES[self.rule_type.name]
        hyperparameters = _taken(self.rule_type, kwargs)
        # Keras' own learning rate multiplies the rule's step.
        rule = self.rule_type(learning_rate=1.0, **hyperparameters)
        super().__init__(rule, {}, learning_rate, **kwargs)

    def get_config(self):
        config = super().get_config()
        hyperparameters = self.rule.get_config()
        del hyperparameters["learning_rate"]  # Keras' own stands in the config
        return {**config, **hyperparameters}


class LearnedOptimizer(RuleOptimizer):
    """Base of the learned rules as Keras optimizers.

    Args:
        rule_weights: the rule's weights by name; fresh ones by default.
        learning_rate: multiplies the learned step.
        seed: names the fresh weights, where `rule_weights` is not given.
        **kwargs: hyperparameters of the rule and what every Keras optimizer takes.
    """

    rule_type: type[rules.Rule]

    def __init__(
        self,
        rule_weights=None,
        learning_rate=1.0,
        *,
        seed=0,
        warmup_steps=100,
        warmup_learning_rate=0.01,
        **kwargs,
    ):
        rule = self.rule_type(**_taken(self.rule_type, kwargs))
        if rule_weights is None:
            rule_weights = rule.init_weights(derive_seed(seed, "student"))
        elif any(isinstance(value, dict) for value in rule_weights.values()):
            rule_weights = {k: _decoded(v) for k, v in rule_weights.items()}
        check_weights(rule, rule_weights)
        super().__init__(
            rule,
            rule_weights,
            learning_rate,
            warmup_steps=warmup_steps,
            warmup_learning_rate=warmup_learning_rate,
            **kwargs,
        )

    def get_config(self):
        # The weights are part of the config (about 27 kB of base64), so that a
        # clone, a saved model or a pickle can never end up with other weights.
        weights = {k: _encoded(v) for k, v in self.rule_weights.items()}
        return {
            **super().get_config(),
            **self.rule.get_config(),
            "rule_weights": weights,
        }


def check_weights(rule, weights):
    """Raises ValueError unless `weights` are what `rule` needs: names and shapes."""
    expected = {k: tuple(v.shape) for k, v in rule.init_weights(0).items()}
    received = {k: tuple(np.shape(v)) for k, v in weights.items()}
    if expected != received:
        wrong = {
            name: (expected.get(name), received.get(name))
            for name in sorted(expected.keys() | received.keys())
            if expected.get(name) != received.get(name)
        }
        text = "; ".join(
            f"{k}: expected {e}, received {r}" for k, (e, r) in wrong.items()
        )
        raise ValueError(
            f"These weights do not belong to {rule.name} with {rule.get_config()}. "
            f"Shapes that differ: {text}. Use the optimizer class and hyperparameters "
            "that they were trained with."
        )
    broken = [k for k, v in weights.items() if not np.all(np.isfinite(np.asarray(v)))]
    if broken:
        raise ValueError(
            f"Weights {', '.join(broken)} of {rule.name} are not finite; the file or "
            "the run that made them is broken."
        )


def _taken(rule_type, kwargs):
    """Takes the rule's hyperparameters out of `kwargs`."""
    fields = {field.name for field in dataclasses.fields(rule_type)} - {"learning_rate"}
    return {name: kwargs.pop(name) for name in sorted(fields & kwargs.keys())}


def _encoded(array):
    array = np.ascontiguousarray(array, dtype="<f4")
    data = base64.b64encode(array.tobytes()).decode("ascii")
    return {"shape": list(array.shape), "float32": data}


def _decoded(value):
    data = np.frombuffer(base64.b64decode(value["float32"]), dtype="<f4")
    return data.reshape(value["shape"]).astype("float32")
