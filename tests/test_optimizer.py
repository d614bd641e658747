"""The Keras optimizer around a rule: Keras' Adam in our adapter against Keras' Adam."""

import functools
import math
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_amalgam
from tests import helpers, keras_adam
from tests.conformance.test_rules import RULES
from tf_amalgam import chunks, rules
from tf_amalgam.layout import Layout
from tf_amalgam.optimizer import RuleOptimizer
from tf_amalgam.optimizers import OPTIMIZERS, optimizer_for
from tf_amalgam.rules import rnnprop
from tf_amalgam.weights import check_weights

DATA = helpers.blobs().train
SCHEDULE = keras.optimizers.schedules.ExponentialDecay


def model(seed=0, **layer):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(6, activation="tanh", **layer),
            keras.layers.Dense(3),
        ]
    )


def trained(optimizer, epochs=3, net=None, **compile_options):
    """Returns (weights, losses) after training on fixed minibatches."""
    net = net or model()
    net.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **compile_options,
    )
    history = net.fit(*DATA, batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    return helpers.flat(net.get_weights()), history.history["loss"]


def go_on(net):
    """Returns the weights after another epoch."""
    net.fit(*DATA, batch_size=8, shuffle=False, verbose=0)
    return helpers.flat(net.get_weights())


# All optimizers. Analytic ones differ by elementwise arithmetic alone, which adam's has
# all of: the others are slow.
EVERY = helpers.slow_if(
    lambda name: name in rules.TEACHERS and name != "adam", sorted(OPTIMIZERS)
)
# Where their arithmetic does not matter: an analytic rule, one that is recurrent, one
# that couples coordinates.
KINDS = ("adam", "rnnprop", "scale")
OF_EACH_KIND = helpers.slow_if(lambda name: name not in KINDS, sorted(OPTIMIZERS))
COORDINATEWISE = helpers.slow_if(
    lambda name: name not in ("adam", "rnnprop"),
    [name for name in sorted(OPTIMIZERS) if OPTIMIZERS[name].rule_type.coordinatewise],
)


def made(name, **options):
    """Returns an optimizer that takes steps: a fresh Scale's heads are zero."""
    if name == "scale":
        generator, weights = np.random.default_rng(4), RULES[name].init_weights(0)
        options["rule_weights"] = {
            k: v + 0.1 * generator.normal(size=v.shape) for k, v in weights.items()
        }
    return OPTIMIZERS[name](**options)


FEATURES = {
    "plain": {},
    "clipnorm": {"clipnorm": 0.05},
    "clipvalue": {"clipvalue": 0.01},
    "global_clipnorm": {"global_clipnorm": 0.05},
    "weight_decay": {"weight_decay": 0.1},
    "ema": {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 4},
    "loss scale": {"loss_scale_factor": 1024.0},
    "accumulation": {"gradient_accumulation_steps": 3},
    "schedule": {"learning_rate": lambda: SCHEDULE(0.05, 10, 0.5)},
}


@pytest.mark.parametrize(
    "feature",
    helpers.slow_if(lambda name: name in ("clipvalue", "global_clipnorm"), FEATURES),
)
def test_equals_keras_adam(feature):
    options = {"learning_rate": 0.01, **FEATURES[feature]}
    fresh = lambda: {k: v() if callable(v) else v for k, v in options.items()}  # noqa: E731
    ours, our_losses = trained(keras_adam.AdaptedAdam(**fresh()))
    theirs, their_losses = trained(keras.optimizers.Adam(**fresh()))
    start = helpers.flat(model().get_weights())
    moved = np.abs(theirs - start).max()
    assert moved > 0.05
    np.testing.assert_allclose(ours, theirs, atol=2e-4 * moved)
    np.testing.assert_allclose(our_losses, their_losses, rtol=1e-4)
    if feature not in ("plain", "loss scale"):  # Adam does not see a loss's scale
        plain, _ = trained(keras.optimizers.Adam(0.01))
        assert np.abs(plain - theirs).max() > 1e-2 * moved  # the feature matters


def test_loss_scale_is_taken_out_again():
    ours, _ = trained(tf_amalgam.SGD(0.05, loss_scale_factor=1024.0))
    theirs, _ = trained(keras.optimizers.SGD(0.05))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_weight_decay_exclusions():
    def excluded(optimizer):
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        return trained(optimizer)[0]

    ours = excluded(keras_adam.AdaptedAdam(weight_decay=0.1))
    theirs = excluded(keras.optimizers.Adam(0.01, weight_decay=0.1))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_learning_rate_can_be_set():
    def halved(optimizer):
        net = model()
        trained(optimizer, 1, net)
        optimizer.learning_rate = 0.001
        assert float(optimizer.learning_rate) == pytest.approx(0.001)
        return go_on(net)

    np.testing.assert_allclose(
        halved(keras_adam.AdaptedAdam()), halved(keras.optimizers.Adam(0.01)), atol=1e-4
    )


def test_variables_without_gradient_are_left_alone():
    def half_used(optimizer):
        used, unused = keras.Variable(np.ones(4)), keras.Variable(np.ones(3))
        optimizer.build([used, unused])
        for step in range(6):
            # The second variable has a gradient in the first two steps only.
            second = tf.fill([3], 0.5) if step < 2 else None
            optimizer.apply(
                [tf.constant([1.0, -2.0, 0.1, 3.0]), second], [used, unused]
            )
        return np.concatenate([used.numpy(), unused.numpy()])

    np.testing.assert_allclose(
        half_used(keras_adam.AdaptedAdam()),
        half_used(keras.optimizers.Adam(0.01)),
        atol=1e-6,
    )


def test_embeddings_train():
    """Sparse gradients (IndexedSlices) are summed like Keras does."""

    def embedded(optimizer):
        keras.utils.set_random_seed(0)
        net = keras.Sequential(
            [
                keras.Input((3,), dtype="int32"),
                keras.layers.Embedding(7, 4),
                keras.layers.Flatten(),
                keras.layers.Dense(1),
            ]
        )
        net.compile(optimizer=optimizer, loss="mse")
        x = np.random.default_rng(0).integers(0, 7, (32, 3))
        net.fit(x, x.sum(1) / 10.0, batch_size=8, epochs=3, shuffle=False, verbose=0)
        return helpers.flat(net.get_weights())

    # SGD, as Keras' Adam leaves the moments of unused rows to decay differently.
    ours = embedded(tf_amalgam.SGD(0.05))
    np.testing.assert_allclose(ours, embedded(keras.optimizers.SGD(0.05)), atol=1e-6)


def test_sparse_gradients_of_unknown_size():
    """As loops of one's own may make them."""
    sparse = tf.IndexedSlices(tf.ones((3, 2)), tf.constant([3, 1, 3]))
    found = []
    for optimizer in (tf_amalgam.SGD(0.5), keras.optimizers.SGD(0.5)):
        variable = keras.Variable(np.zeros((5, 2)))
        optimizer.apply([sparse], [variable])
        found.append(variable.numpy())
    np.testing.assert_allclose(found[0], found[1])
    np.testing.assert_allclose(found[0][3], -1.0)


def test_complex_parameters_are_refused():
    """Their imaginary part would stay where it is."""
    with pytest.raises(ValueError, match="is complex; .* two variables"):
        tf_amalgam.Adam().build([keras.Variable([1.0]), tf.Variable([1.0 + 1.0j])])


@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_mirrored_equals_single(name):
    single, _ = trained(made(name, warmup_steps=4), 2)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        optimizer, net = made(name, warmup_steps=4), model()
        mirrored, _ = trained(optimizer, 2, net)
    [block] = optimizer._state
    local = block[0].value.values if block else ()
    assert all(np.array_equal(a.numpy(), local[0].numpy()) for a in local)
    np.testing.assert_allclose(mirrored, single, atol=2e-4)
    by_warm_up, _ = trained(keras.optimizers.SGD(0.05), 2)
    assert np.abs(single - by_warm_up).max() > 0.02


@pytest.mark.parametrize("name", EVERY)
def test_keras_file_continues_exactly(name, tmp_path):
    """Saved in the middle of the warm-up, after 12 steps, and after it."""
    nets = [model()]
    trained(made(name, warmup_steps=18), 1, nets[0])
    for epochs in (1, 2):
        nets[-1].save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        assert type(again.optimizer) is OPTIMIZERS[name]
        assert again.optimizer.warmup_steps == 18
        assert int(again.optimizer.iterations) == 12 * epochs
        nets.append(again)
        first, *others = (go_on(net) for net in nets)
        for weights in others:
            np.testing.assert_array_equal(weights, first)


@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_config_makes_the_same_optimizer(name):
    original = made(name, clipnorm=1.0, warmup_steps=3)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(original))
    assert copy.get_config() == original.get_config()
    np.testing.assert_array_equal(trained(copy, 1)[0], trained(original, 1)[0])


def test_warm_up_is_plain_sgd_that_the_rule_observes():
    optimizer = tf_amalgam.RNNProp(warmup_steps=12, warmup_learning_rate=0.05)
    ours, _ = trained(optimizer, 1)  # 12 steps: the warm-up alone
    theirs, _ = trained(keras.optimizers.SGD(0.05), 1)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    state = dict(zip(rnnprop.RNNPropState._fields, optimizer._state[0], strict=True))
    assert np.abs(state["m"].numpy()).max() > 0
    np.testing.assert_array_equal(state["hidden_0"].numpy(), 0.0)


def test_learning_rate_multiplies_the_learned_step():
    def first_step(learning_rate):
        variable = keras.Variable(np.zeros(4))
        optimizer = tf_amalgam.RNNProp(learning_rate=learning_rate, warmup_steps=0)
        optimizer.apply([tf.constant([1.0, -2.0, 0.1, 3.0])], [variable])
        return variable.numpy()

    assert np.abs(first_step(1.0)).max() > 1e-4
    np.testing.assert_allclose(first_step(0.5), 0.5 * first_step(1.0), rtol=1e-6)


def test_optimizer_step_equals_the_rule():
    """The adapter adds nothing to the rule's own step."""
    rule = rules.RNNProp()
    weights = rule.init_weights(4)
    variables = [keras.Variable(np.ones((2, 3))), keras.Variable(np.zeros(3))]
    optimizer = optimizer_for(rule, weights, warmup_steps=0)
    grads = np.random.default_rng(0).normal(size=(4, 9)).astype("float32")
    for g in grads:
        optimizer.apply([tf.reshape(g[:6], (2, 3)), tf.constant(g[6:])], variables)
    layout = optimizer._layout
    state, params = rule.init_state(layout), np.r_[np.ones(6), np.zeros(3)]
    for t, g in enumerate(grads, start=1):
        delta, state = rule.update(
            weights, g, params.astype("float32"), state, layout, np.float32(t)
        )
        params = params + np.asarray(delta)
    ours = np.concatenate([np.ravel(v.numpy()) for v in variables])
    np.testing.assert_allclose(ours, params, atol=1e-6)


@pytest.fixture(
    params=[
        "in rows",
        pytest.param("variables of their own", marks=pytest.mark.slow),
        pytest.param("rows of one", marks=pytest.mark.slow),
    ]
)
def chunks_are(request, monkeypatch):
    """Chunks as beside a CPU (a recurrent rule's in rows), or as beside a GPU."""
    if request.param == "rows of one":
        monkeypatch.setattr(chunks, "apart", lambda *_: False)
    elif request.param == "in rows":
        monkeypatch.setattr(chunks, "MULTIPLE", 1)
        monkeypatch.setattr(chunks, "ROW", 3)
        monkeypatch.setattr(chunks, "cores", lambda: 2)


@pytest.mark.usefixtures("chunks_are")
@pytest.mark.parametrize("name", COORDINATEWISE)
def test_a_large_model_is_updated_in_chunks(name):
    """Chunks of 20, of which 57 parameters leave a rest, as if all at once."""
    options = {"warmup_steps": 4}
    whole, _ = trained(OPTIMIZERS[name](**options), 2)
    for compiled in (False, True):
        small = OPTIMIZERS[name](**options, chunk_size=20)
        chunked, _ = trained(small, 2, run_eagerly=not compiled)
        np.testing.assert_allclose(chunked, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("chunks_are")
@pytest.mark.parametrize("name", ["choice", "rnnprop"])
def test_chunks_where_some_variables_have_no_gradient(name):
    def moved(**options):
        sizes = [(4, 3), (5,), (2, 2, 2), (7,), (3, 2)]
        variables = [keras.Variable(np.ones(size)) for size in sizes]
        optimizer = OPTIMIZERS[name](warmup_steps=1, **options)
        optimizer.build(variables)
        generator = np.random.default_rng(0)
        for step in range(6):
            grads = [generator.normal(size=size).astype("float32") for size in sizes]
            if step % 2:
                grads[2] = None
            optimizer.apply(grads, variables)
        shapes.append(optimizer._state[0][-1].shape)
        return np.concatenate([np.ravel(v.numpy()) for v in variables])

    shapes = []
    whole, chunked = moved(), moved(chunk_size=4)
    if chunks.ROW == 3:
        assert shapes[1] == (7, 20, 3)
    assert np.abs(whole - 1.0).max() > 1e-3
    np.testing.assert_allclose(chunked, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("chunks_are")
def test_chunks_on_several_replicas_and_under_xla():
    options = {"warmup_steps": 4, "chunk_size": 20}
    whole, _ = trained(tf_amalgam.RNNProp(warmup_steps=4), 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        mirrored, _ = trained(tf_amalgam.RNNProp(**options), 2, model())
    np.testing.assert_allclose(mirrored, whole, atol=2e-4)
    compiled, _ = trained(tf_amalgam.RNNProp(**options), 2, jit_compile=True)
    np.testing.assert_allclose(compiled, whole, atol=2e-4)


@pytest.mark.parametrize("guard", helpers.slow_if(lambda g: not g, [None, True]))
def test_native_variables(guard):
    """TensorFlow's own variables, in a loop of one's own, as by Keras' optimizers."""

    def moved(make):
        variable = make(np.ones((1, 2), "float32"))
        optimizer = tf_amalgam.RNNProp(warmup_steps=2, guard=guard)
        step = tf.function(
            lambda: optimizer.apply([tf.constant([[1.0, -2.0]])], [variable])
        )
        for _ in range(5):
            step()
        return variable.numpy()

    native = moved(tf.Variable)
    assert np.abs(native - 1.0).min() > 0.01
    np.testing.assert_allclose(native, moved(keras.Variable), rtol=1e-6)


def test_variables_of_both_kinds():
    """As Keras' Adam does: those of a model, and one of TensorFlow's behind them."""

    def moved(optimizer):
        variables = [keras.Variable([1.0, 2.0]), tf.Variable([3.0]), tf.Variable(4.0)]
        for _ in range(3):
            grads = [tf.constant([1.0, -1.0]), tf.constant([2.0]), tf.constant(0.5)]
            optimizer.apply(grads, variables)
        return np.concatenate([np.ravel(v.numpy()) for v in variables])

    theirs = moved(keras.optimizers.SGD(0.1))
    np.testing.assert_allclose(moved(tf_amalgam.SGD(0.1)), theirs, rtol=1e-6)


@pytest.mark.parametrize("shape", [None, [None]])
def test_gradients_of_a_shape_that_shows_in_the_step(shape):
    """Those of Python code; those of one another's variables are an error then."""
    optimizer = tf_amalgam.SGD(0.1)
    variables = [keras.Variable([1.0, 2.0, 3.0]), keras.Variable([4.0, 5.0])]

    @tf.function(input_signature=2 * [tf.TensorSpec([None])])
    def step(*values):
        grads = [tf.py_function(lambda g: g, [v], "float32") for v in values]
        for grad in grads:
            grad.set_shape(shape)
        optimizer.apply(grads, variables)

    long, short = tf.constant([1.0, 0.0, -1.0]), tf.constant([2.0, 0.0])
    step(long, short)
    np.testing.assert_allclose(variables[0].numpy(), [0.9, 2.0, 3.1], rtol=1e-6)
    np.testing.assert_allclose(variables[1].numpy(), [3.8, 5.0], rtol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="[Ss]hape"):
        step(short, long)


def test_state_is_made_at_once_where_a_step_is_traced():
    """Made with the first step instead, it would need its memory twice."""
    variable, optimizer = tf.Variable([1.0, 2.0]), tf_amalgam.RNNProp()
    found = []

    @tf.function
    def step():
        optimizer.build([variable])
        with tf.init_scope():
            found.extend(v.numpy() for v in optimizer._state[0])

    step.get_concrete_function()
    # One chunk of two coordinates; traced twice.
    assert [v.shape for v in found[:6]] == [(1, 2)] * 2 + [(1, 20, 2)] * 4


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param("Mirrored", "adam", marks=pytest.mark.slow),
        ("Mirrored", "choice"),
        pytest.param("Mirrored", "rnnprop", marks=pytest.mark.slow),
        ("OneDevice", "rnnprop"),
    ],
)
def test_a_strategy_of_one_replica(kind, name):
    """As on a machine with one GPU; the state is made while the step is traced."""
    plain, _ = trained(OPTIMIZERS[name](warmup_steps=4), 2)
    make = getattr(tf.distribute, f"{kind}Strategy")
    with make("CPU:0" if kind == "OneDevice" else ["CPU:0"]).scope():
        alone, _ = trained(OPTIMIZERS[name](warmup_steps=4), 2, model())
    np.testing.assert_allclose(alone, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "chunk_size"),
    [
        ("bfloat16", 20),
        ("float16", 1000),
        pytest.param("float16", 20, marks=pytest.mark.slow),
        pytest.param("bfloat16", 1000, marks=pytest.mark.slow),
    ],
)
def test_recurrent_state_may_be_half_as_large(dtype, chunk_size, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "cores", lambda: 2)
    net = model()
    optimizer = tf_amalgam.RNNProp(
        warmup_steps=4, state_dtype=dtype, chunk_size=chunk_size
    )
    half, _ = trained(optimizer, 2, net)
    bytes_ = {"float32": 4, dtype: 2}
    every = [v for block in optimizer._state for v in block]
    sizes = [v.shape.num_elements() * bytes_[v.dtype] for v in every]
    # Of two blocks of two rows of a vector of 16.
    assert sum(sizes) == 168 * (64 if chunk_size == 20 else 57)
    whole, _ = trained(tf_amalgam.RNNProp(warmup_steps=4), 2)
    start = helpers.flat(model().get_weights())
    assert 0 < np.abs(half - whole).max() < 0.1 * np.abs(whole - start).max()
    # It is saved and continues like any other.
    net.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.optimizer.state_dtype == dtype
    np.testing.assert_array_equal(go_on(again), go_on(net))


@pytest.mark.parametrize(("dtype", "size"), [("float32", 344), ("bfloat16", 184)])
def test_bytes_of_the_defaults_state(dtype, size):
    """The LSTMs' numbers may be of half the size; averages keep float32."""
    optimizer = tf_amalgam.load(state_dtype=dtype, warmup_steps=0)
    optimizer.build([keras.Variable(np.ones((4, 8)))])
    every = [v for block in optimizer._state for v in block]
    bytes_ = {"float32": 4, "bfloat16": 2}
    assert sum(v.shape.num_elements() * bytes_[v.dtype] for v in every) == size * 32


@pytest.mark.slow
def test_a_saved_state_does_not_know_its_chunks(tmp_path, monkeypatch):
    """Saved in the middle of training by one chunk size, it goes on in another."""
    optimizer = functools.partial(
        tf_amalgam.load, "choice-large", warmup_steps=4, guard=True
    )
    net = model()
    trained(optimizer(chunk_size=20), 2, net)
    net.save_weights(tmp_path / "net.weights.h5")
    ends = []
    for chunk_size in (20, 30, 1000):
        other = model(seed=1)
        other.compile(optimizer=optimizer(chunk_size=chunk_size), loss=net.loss)
        other.optimizer.build(other.trainable_variables)
        other.load_weights(tmp_path / "net.weights.h5")
        ends.append(go_on(other))
        # From here on as rows of one variable, as beside a GPU.
        monkeypatch.setattr(chunks, "apart", lambda *_: False)
    expected = go_on(net)
    for end in ends:
        np.testing.assert_allclose(end, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cores", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_blocks_in_order_of_any_number_at_once(cores, monkeypatch):
    """Eight blocks of which one or three are under way, against all at once."""
    whole, _ = trained(tf_amalgam.RNNProp(warmup_steps=4), 2)
    monkeypatch.setattr(chunks, "BLOCKS", ((2**13, 8), (2**16, 8)))
    monkeypatch.setattr(chunks, "cores", lambda: cores)
    monkeypatch.setattr(chunks, "LEAST_UNDER_WAY", 1)
    optimizer = tf_amalgam.RNNProp(warmup_steps=4, chunk_size=5)
    ends, _ = trained(optimizer, 2)
    assert len(optimizer._state) == 8
    np.testing.assert_allclose(ends, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "compiled"),
    [
        (tf_amalgam.RNNProp, True),
        pytest.param(tf_amalgam.RNNProp, False, marks=pytest.mark.slow),
        pytest.param(tf_amalgam.Adam, True, marks=pytest.mark.slow),
        pytest.param(tf_amalgam.Adam, False, marks=pytest.mark.slow),
    ],
)
def test_a_tape_may_record_steps(kind, compiled):
    """Of a model in blocks or chunks, too."""
    start = helpers.flat(model().get_weights())
    ends = []
    for chunk_size in (None, 20):
        net = model()
        optimizer = kind(chunk_size=chunk_size)
        optimizer.build(net.trainable_weights)
        steps = functools.partial(two_steps_on_a_tape, net, optimizer)
        (tf.function(steps, autograph=False) if compiled else steps)()
        ends.append(helpers.flat(net.get_weights()))
    assert np.abs(ends[0] - start).max() > 1e-3
    np.testing.assert_allclose(*ends, rtol=1e-5, atol=1e-6)


def two_steps_on_a_tape(net, optimizer):
    with tf.GradientTape(persistent=True) as tape:
        for _ in range(2):
            loss = tf.reduce_mean(net(DATA.x) ** 2)
            grads = tape.gradient(loss, net.trainable_weights)
            optimizer.apply(grads, net.trainable_weights)


@pytest.mark.parametrize("name", RULES)
def test_a_warm_up_leaves_what_meta_training_leaves(name):
    """The state of a rule that has observed the gradients, and nothing else of it."""
    rule, generator = RULES[name], np.random.default_rng(0)
    layout = Layout(("kernel", "bias"), ((4, 3), (3,)))
    variables = [keras.Variable(np.ones(s, "float32")) for s in layout.shapes]
    optimizer = RuleOptimizer(rule, rule.init_weights(0), warmup_steps=3)
    expected = rule.init_state(layout)
    for step in (1.0, 2.0, 3.0):
        grads_P = tf.constant(generator.normal(size=layout.size), "float32")
        optimizer.apply(layout.split(grads_P), variables)
        expected = rule.observe(grads_P, expected, tf.constant(step))
    [block] = optimizer._state
    for variable, value in zip(block, keras.tree.flatten(expected), strict=True):
        found = keras.ops.convert_to_numpy(variable)
        np.testing.assert_allclose(found.reshape(value.shape), value, rtol=1e-5)


def test_a_saved_state_of_another_model_is_left():
    """As Keras' own optimizers do: with a warning, and nothing of it is loaded."""
    store: dict = {}
    optimizer = tf_amalgam.RNNProp()
    optimizer.build([keras.Variable(np.ones(5))])
    optimizer.iterations.assign(3)
    optimizer.save_own_variables(store)
    other = tf_amalgam.RNNProp()
    other.build([keras.Variable(np.ones(7))])
    with pytest.warns(UserWarning, match="a model with 5 .*, this one has 7"):
        other.load_own_variables(store)
    assert int(other.iterations) == 0
    fewer = {key: store[key] for key in list(store)[:-1]}
    with pytest.warns(UserWarning, match="Skipping variable loading.* parts, this one"):
        other.load_own_variables(fewer)
    scalars = {key: np.float32(0.0) for key in store}
    with pytest.warns(UserWarning, match="Skipping variable loading"):
        other.load_own_variables(scalars)


def test_a_saved_state_of_another_width_is_left():
    store: dict = {}
    optimizer = tf_amalgam.RNNProp(units=4)
    optimizer.build([keras.Variable(np.ones(5))])
    optimizer.iterations.assign(3)
    optimizer.save_own_variables(store)
    other = tf_amalgam.RNNProp(units=3)
    other.build([keras.Variable(np.ones(5))])
    with pytest.warns(UserWarning, match=r"hidden_0 .* shape \(4, 5\), not \(3, 5\)"):
        other.load_own_variables(store)
    assert int(other.iterations) == 0


def test_as_many_parts_of_other_options_are_no_state():
    """Averages of the parameters stand where blocks of a state do."""
    sizes, store = ((20, 2), (2,)), {}
    averaging = tf_amalgam.RNNProp(chunk_size=10, use_ema=True)
    averaging.build([keras.Variable(np.ones(shape)) for shape in sizes])
    averaging.iterations.assign(3)
    averaging.save_own_variables(store)
    plain = tf_amalgam.RNNProp(chunk_size=10)
    plain.build([keras.Variable(np.ones(shape)) for shape in sizes])
    # What Keras would count.
    parts = len(plain.variables) - len(plain._state[0]) * (len(plain._state) - 1)
    assert len(store) == parts + len(sizes)
    with pytest.warns(UserWarning, match="other options"):
        plain.load_own_variables(store)
    assert int(plain.iterations) == 0


def test_a_state_is_loaded_into_one_that_is_built():
    """Neither `compile` nor `load_weights` builds an optimizer."""
    store: dict = {}
    optimizer, variable = tf_amalgam.RNNProp(), keras.Variable(np.ones(5))
    optimizer.build([variable])
    optimizer.iterations.assign(3)
    optimizer.save_own_variables(store)
    other = tf_amalgam.RNNProp()
    with pytest.warns(UserWarning, match="no state yet. Build it first, optimizer.bu"):
        other.load_own_variables(store)
    other.build([variable])
    other.load_own_variables(store)
    assert int(other.iterations) == 3
    untrained: dict = {}
    tf_amalgam.RNNProp().save_own_variables(untrained)
    with pytest.warns(UserWarning, match="the saved one had no state"):
        other.load_own_variables(untrained)


def test_numbers_of_numpy_are_numbers():
    given = {"warmup_steps": np.int64(3), "chunk_size": np.int32(20)}
    optimizer = tf_amalgam.RNNProp(warmup_learning_rate=np.float64(0.5), **given)
    config = optimizer.get_config()
    told = [config[name] for name in (*given, "warmup_learning_rate")]
    assert told == [3, 20, 0.5]
    assert [type(number) for number in told] == [int, int, float]


def test_a_teachers_rule_has_its_rate():
    assert tf_amalgam.Adam(0.003, beta_2=0.99).rule == rules.Adam(0.003, beta_2=0.99)
    teacher = tf_amalgam.load("sgd")
    assert teacher.rule == rules.SGD(0.2)
    teacher.learning_rate = 0.1
    assert teacher.rule == rules.SGD(0.1)
    falling = keras.optimizers.schedules.CosineDecay(0.1, 10)
    with pytest.raises(ValueError, match="a schedule or a function.*rules.Adam"):
        tf_amalgam.Adam(falling).rule  # noqa: B018
    assert rules.make_pool([teacher.rule]) == (rules.SGD(0.1),)


@pytest.mark.parametrize("frozen", helpers.slow_if(lambda n: n == 1, [1, 2]))
def test_a_file_of_a_model_that_was_frozen_after_training(frozen, tmp_path):
    """Keras' Adam begins anew there, with a warning; of a part, or of all of it."""
    for make in (keras.optimizers.Adam, tf_amalgam.RNNProp, tf_amalgam.Scale):
        net = model()
        trained(make(), 1, net)
        for layer in net.layers[:frozen]:
            layer.trainable = False
        net.save(tmp_path / "model.keras")
        with pytest.warns(UserWarning, match="Skipping variable loading"):
            again = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(
            helpers.flat(again.get_weights()), helpers.flat(net.get_weights())
        )
        assert int(again.optimizer.iterations) == 0


@pytest.mark.parametrize("guard", [None, True])
@pytest.mark.usefixtures("float64")
def test_fresh_and_guarded_ones_where_keras_computes_in_float64(guard):
    variable = keras.Variable(np.ones(3), dtype="float64")
    optimizer = tf_amalgam.RNNProp(guard=guard, warmup_steps=1)
    for _ in range(3):
        optimizer.scale_loss(tf.constant(1.0, "float64"))
        optimizer.apply([tf.constant([1.0, -2.0, 0.5], "float64")], [variable])
    found = variable.numpy()
    assert np.abs(found - 1.0).min() > 1e-4
    assert np.all(found != np.float32(found))  # not rounded on the way


@pytest.mark.parametrize(
    ("coordinates", "chunk_size", "expected"),
    [
        (100, 2**14, (1, 100)),
        (370_506, 2**14, (23, 16112)),  # an odd number of vectors of 16
        (2**15, 2**14, (2, 2**14)),  # no more than asked for
        (2**15, 2**14 + 16, (2, 2**14 + 16)),
        (10, 4, (3, 4)),
        (57, 20, (3, 19)),  # no more than asked for
        (33, 16, (3, 16)),
        (21, 10, (3, 7)),
        (49, 48, (2, 48)),
        (0, 4, (1, 0)),
    ],
)
def test_chunks_are_even(coordinates, chunk_size, expected):
    count, size = chunks.divide(coordinates, chunk_size)
    assert (count, size) == expected
    assert (count - 1) * size < coordinates <= count * size or not coordinates
    value = np.arange(3.0 * coordinates).reshape(3, coordinates)
    stored = chunks.cut(value, count, size)
    assert stored.shape == (count, 3, size)
    np.testing.assert_array_equal(
        chunks.joined([stored[:1], stored[1:]], coordinates), value
    )


@pytest.mark.parametrize(
    ("device", "size"),
    [
        ("/job:localhost/replica:0/task:0/device:CPU:0", chunks.CPU_WHOLE),
        ("TFRT_CPU_0", chunks.CPU_SIZE),  # JAX
        ("cpu", chunks.CPU_SIZE),  # PyTorch
        ("/job:localhost/replica:0/task:0/device:GPU:0", 2**19),
        ("cuda:0", 2**19),
        ("mps:0", 2**19),
    ],
)
def test_chunks_are_larger_on_a_gpu(device, size, monkeypatch):
    backend = "tensorflow" if device.startswith("/job") else "another"
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    variable = types.SimpleNamespace(device=device)
    assert chunks.default_size(variable, 10**6) == size


def test_chunks_by_default(monkeypatch):
    """On a CPU they have variables of their own; elsewhere they are rows of one."""
    for make in (keras.Variable, tf.Variable):
        for coordinates in (1, 2**16, 16 * (2**16 + 16)):
            assert chunks.default_size(make(1.0), coordinates) == 2**16 + 16
        # Of larger models larger ones, so that there are no more than a hundred.
        for coordinates, size in (
            (16 * (2**16 + 16) + 1, 2**18 + 16),
            (25_025_000, 2**18 + 16),
            (100 * (2**18 + 16) + 1, chunks.CPU_SIZE),
        ):
            assert chunks.default_size(make(1.0), coordinates) == size

    def shapes(coordinates, kind=tf_amalgam.RNNProp, **options):
        optimizer = kind(**options)
        assert optimizer.get_config()["chunk_size"] is None
        optimizer.build([keras.Variable(np.zeros(coordinates, "float32"))])
        return [block[-1].shape for block in optimizer._state]

    assert shapes(2**13) == [(1, 20, 2**13)]
    # A recurrent rule's in rows of some blocks, whatever the machine.
    for cores in (1, 40):
        monkeypatch.setattr(chunks, "cores", lambda cores=cores: cores)
        assert shapes(2**13 + 1) == [(2, 20, 2064)] * 2
        assert shapes(2**15 + 33) == [(8, 20, 2064)] * 2
        assert shapes(2**15 + 33, state_dtype="bfloat16") == [(8, 20, 2064)] * 2
        assert shapes(2**16) == [(16, 20, 2064)] * 2
        assert shapes(2**18) == [(16, 20, 2064)] * 8
    assert shapes(2**13 + 1, tf_amalgam.Adam) == [(1, 2**13 + 1)]
    assert shapes(2**13 + 1, tf_amalgam.LearnedScalars) == [(1, 2**13 + 1)]
    assert len(shapes(2**13 + 1, tf_amalgam.Scale)) == 1  # couples coordinates
    assert shapes(2**16 + 17, tf_amalgam.Adam) == [(1, 32784)] * 2
    variable = keras.Variable(1.0)
    assert chunks.arranged(variable, 500, 5) == (100, 1, 5)
    assert chunks.arranged(variable, 501, 5) == (1, 101, 5)
    assert chunks.arranged(variable, 500, 5, recurrent=True) == (2, 50, 5)
    assert chunks.arranged(variable, 500, 500, recurrent=True) == (1, 1, 500)


@pytest.mark.parametrize("chunk_size", [1, 5, 16, 47, None])
def test_blocks_hold_all_coordinates(chunk_size):
    """None of them is padding alone, and no row is longer than asked for."""
    most = chunk_size or chunks.BLOCKS[0][0]
    for coordinates in (*range(1, 90), 8193, 18_122, 370_506):
        given = (keras.Variable(1.0), coordinates, chunk_size)
        blocks, rows, size = chunks.arranged(*given, recurrent=True)
        assert (blocks - 1) * rows * size < coordinates <= blocks * rows * size
        assert size <= most
        assert blocks <= (2 if coordinates <= 2**16 else 8)
        assert (blocks == 1) == (coordinates <= most)


def test_new_variables_get_keras_own_error():
    optimizer = tf_amalgam.Adam()
    first, second = keras.Variable(np.ones(2)), keras.Variable(np.ones(2))
    optimizer.apply([tf.ones(2)], [first])
    with pytest.raises(ValueError, match="Unknown variable"):
        optimizer.apply([tf.ones(2)], [second])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tf_amalgam.Adam(lr=0.1), "not recognized"),
        (lambda: tf_amalgam.Adam("fast"), "learning_rate"),
        (lambda: tf_amalgam.Adam(warmup_steps=-1), "warmup_steps"),
        *(
            (
                functools.partial(tf_amalgam.Adam, warmup_learning_rate=given),
                "warmup_learning_rate must be a finite number above 0",
            )
            for given in (
                *(0.0, math.inf, True, "fast"),
                keras.optimizers.schedules.CosineDecay(0.1, 10),
            )
        ),
        (lambda: tf_amalgam.load(warmup_steps=1.5), "warmup_steps must be a whole"),
        (lambda: tf_amalgam.Adam(chunk_size=0), "chunk_size"),
        (
            lambda: tf_amalgam.RNNProp(state_dtype="float8"),
            "Unknown state_dtype 'float8'.*float16",
        ),
        (lambda: tf_amalgam.RNNProp({"w": np.ones(3)}), "do not belong to rnnprop"),
        (lambda: tf_amalgam.RNNProp(1e-3), "dict of arrays by name, received 0.001"),
        (lambda: tf_amalgam.Choice("a/b"), "load takes paths"),
        (lambda: tf_amalgam.Adam(-1e-3), "finite number from 0.*received -0.001"),
        (lambda: tf_amalgam.load(learning_rate=math.nan), "received nan"),
        (
            lambda: tf_amalgam.RNNProp(rules.RNNProp(units=8).init_weights(0)),
            r"lstm_0/kernel: expected \(2, 80\), received \(2, 32\)",
        ),
    ],
)
def test_mistakes_are_explained(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_weights_that_are_not_finite_are_refused():
    weights = rules.RNNProp().init_weights(0)
    weights["head/bias"] = np.array([np.nan], "float32")
    with pytest.raises(ValueError, match="head/bias of rnnprop are not finite"):
        check_weights(rules.RNNProp(), weights)
