"""All logical axes and mesh axes, and the letters that name an array's dims.

An *axis* is a name: of a mesh dimension, or of the meaning of an array's dim. A *dim* is a position
in a shape, written as a suffix of the array's name: `x_BLD` is [batch, length, model width].

  B batch   L query positions   S key positions (S = L unless decoding)   N layers
  D model   H query heads       K head size   F mlp hidden   V vocabulary
"""

# Mesh axes. Replicas are slices connected by the data-center network; each holds a full copy.
REPLICA, DATA, MODEL = "replica", "data", "model"

# Logical axes of activations.
# The residual stream's length has its own name, so that rules can shard only the residual along the
# sequence.
BATCH, LENGTH, ACT_LENGTH = "batch", "length", "act_length"
ACT_EMBED, ACT_HEADS, ACT_KV = "act_embed", "act_heads", "act_kv"
ACT_MLP, ACT_VOCAB = "act_mlp", "act_vocab"
# A layer's input where it meets the kernels; the token table's dims where tokens are looked up.
ACT_INPUT, LOOKUP_VOCAB, LOOKUP_EMBED = "act_input", "lookup_vocab", "lookup_embed"
# The sequences of a key-value cache, and the query heads while they meet it; and the sequences of
# the attention's output on its way back to the heads' devices.
CACHE_BATCH, CACHE_HEADS, HEADS_BATCH = "cache_batch", "cache_heads", "heads_batch"

# Logical axes of parameters. The token table's width has its own name, so that a rule table can
# shard it differently from kernels. So do norm scales, which are too small to be worth sharding: a
# `norm` is stored as it acts, a `centered_norm` minus 1, so that weight decay pulls it toward 1.
EMBED, HEADS, KV, MLP, LAYERS = "embed", "heads", "kv", "mlp", "layers"
VOCAB, VOCAB_EMBED = "vocab", "vocab_embed"
NORM, CENTERED_NORM = "norm", "centered_norm"
