"""Plans one layout in a process of its own: `python -m palmscale.plan.search.worker`.

Standard input holds a pickled pair: the module search path, and the pickled arguments of
`palmscale.plan.run_plan.plan_stages`. Standard output gets the plan as JSON. A user error is one
line on standard error and exit code 2.
"""

import json
import pickle
import sys

from palmscale.errors import UserError
from palmscale.exit_codes import MISTAKE


def main() -> int:
    """Reads the arguments, plans, and writes the plan; returns the exit code."""
    sys.path[:], arguments = pickle.load(sys.stdin.buffer)
    import jax

    from palmscale.plan import run_plan
    from palmscale.plan.report import numbers

    jax.config.update("jax_platforms", "cpu")  # the accelerators may be in use
    try:
        run, topology, sequences = pickle.loads(arguments)
        (plan,) = run_plan.plan_stages(run, topology, batch=sequences)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return MISTAKE
    sys.stdout.write(json.dumps(numbers.to_json(plan)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
