"""OpenVINO sends reports home when it can; raystore does not let it."""

from __future__ import annotations

import subprocess
import sys


def test_openvino_is_imported_without_its_telemetry() -> None:
    code = (
        "from raystore.encoders.openvino_backend import import_openvino; import sys; import_openvino();"
        "print(sorted(m for m in sys.modules if m.startswith('openvino_telemetry') and sys.modules[m] is not None));"
        "from openvino.tools.ovc import convert_impl; print(convert_impl.tm.__name__)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert out == ["[]", "openvino.tools.ovc.telemetry_stub"]
