"""From folders of chest X-rays to a bundle: the recipe is training/README.md, the steps are the modules, one each.

Training imports `cxr_edge` for everything that must be identical on the device; never the other way round. Importing it
keeps the libraries that training uses from writing to the user's home.
"""

import atexit
import os
import secrets
import shutil
import tempfile
from pathlib import Path

import cxr_edge  # noqa: F401  # switches ONNX Runtime's telemetry off before a module here imports it

__all__: list[str] = []

# matplotlib writes its font list to the home unless this variable names another folder. It makes the folder when it is
# imported; the figures set everything they need themselves, so the user's own settings have no part in them.
if "MPLCONFIGDIR" not in os.environ:
    _folder = Path(tempfile.gettempdir()) / f"cxr-edge-matplotlib-{secrets.token_hex(8)}"
    os.environ["MPLCONFIGDIR"] = str(_folder)
    atexit.register(shutil.rmtree, _folder, ignore_errors=True)
