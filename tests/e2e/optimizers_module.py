"""An optimizer and a schedule of a user's own: functions that return what optax makes."""

import optax


def warmup_stable_decay(peak, warmup_steps, total_steps, decay_steps):
    """Rises linearly to `peak`, stays there, and falls to 0 in the last `decay_steps`."""
    parts = [
        optax.linear_schedule(0.0, peak, warmup_steps),
        optax.constant_schedule(peak),
        optax.linear_schedule(peak, 0.0, decay_steps),
    ]
    return optax.join_schedules(parts, [warmup_steps, total_steps - decay_steps])


def lion(learning_rate, weight_decay=0.1, clip=1.0):
    """Lion after clipping of the gradients."""
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.lion(learning_rate, weight_decay=weight_decay),
    )
