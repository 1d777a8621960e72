"""The program behind launch/tpu_pod.sh. It needs only Python 3.9 and gcloud."""

import os
import sys

# A folder that is run as a program is not a package; its parent contains it as one.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))

from tpu_pod.main import main  # noqa: E402

sys.exit(main(sys.argv[1:]))
