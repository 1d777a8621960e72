"""What a server accepts from its clients."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on what clients may ask for.

    Attributes:
        waiting_sequences: sequences that may wait for a free slot; further requests are told to
            try again later.
        top_log_probabilities: the likeliest tokens that may be asked for with each token.
        stop_strings: stop strings of a request.
        body_bytes: size of a request's body.
        body_seconds: time in which a client sends its body.
        drain_seconds: time that open requests get to finish once the server is asked to end.
    """

    waiting_sequences: int = 256
    top_log_probabilities: int = 20
    stop_strings: int = 16
    body_bytes: int = 8 << 20
    body_seconds: float = 60.0
    drain_seconds: float = 60.0
