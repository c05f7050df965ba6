"""Python imports this as it starts, where the folder is in PYTHONPATH: in all that tests start."""

import audit

audit.watch()
