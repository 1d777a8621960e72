"""Names that a checkpoint may give as a class, and that must never be called."""

CALLABLES = (
    "subprocess:Popen",  # the standard library, imported by everyone
    "os:system",
    "builtins:exec",
    "importlib:import_module",
    "antigravity:fly",  # the standard library, imported by no one
    "jax:device_put",  # an installed package
    "flax.linen.linear:Dense",  # a Linen module, but no one chose its package
    "optax:adam",
    "numpy.ctypeslib:load_library",
    "fractions:Fraction",  # a class that is no Linen module
    "dataclasses:Field",
    "palmscale.run.local_job:LocalJob",  # palmscale's own, but nothing that is stored
    "palmscale.cli.main:main",
    "one_of",  # a name of gin files alone
    "no_such_module:Model",
    "own_module:../../x",
    ":Popen",
    "Popen",
    "",
)
