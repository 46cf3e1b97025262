"""An exported OpenVINO graph in int8: weights and activations quantised after training, by nncf, on sample inputs.

The result is another encoder, since its vectors are some 0.99 of the original's; it is run by OpenVinoBackend all the
same. Knows inputs as arrays only, no text and no image.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raystore.encoders.model import Arrays
from raystore.encoders.openvino_backend import import_openvino
from raystore.errors import InvalidArguments


def quantize_openvino(folder_in: Path, folder_out: Path, stem: str, calibration: Sequence[Arrays]) -> None:
    """Write `folder_out`/`stem`.xml and .bin, in int8, of the graph of the same name in `folder_in`.

    Args:
        calibration: inputs by name, a batch each, as `OpenVinoBackend.run` takes them. A few hundred items that look
            like what will be encoded: the ranges seen are the ranges kept. Unpadded is best, a text a batch.

    Raises:
        InvalidArguments: no calibration.
        RuntimeError: OpenVINO or nncf cannot do it.

    Cost: 7 s for all-MiniLM-L6-v2 and 300 texts on 2 cores. The same graph and calibration give the same bytes.
    """
    if not calibration:
        raise InvalidArguments(call="quantize", problems=["there is nothing to calibrate with"])
    openvino = import_openvino()
    with _silent():
        import nncf

        graph = openvino.Core().read_model(str(folder_in / f"{stem}.xml"))
        quantized = nncf.quantize(
            graph,
            nncf.Dataset([dict(batch) for batch in calibration]),
            subset_size=len(calibration),
            model_type=nncf.ModelType.TRANSFORMER if _attends(graph) else None,
        )
    for i, node in enumerate(quantized.get_ordered_ops()):
        # Unnamed nodes are numbered by a counter of the process; the files' digest is the int8 encoder's identity.
        if node.get_type_name() not in ("Parameter", "Result"):
            node.set_friendly_name(f"{node.get_type_name()}_{i}")
    openvino.save_model(quantized, str(folder_out / f"{stem}.xml"), compress_to_fp16=False)


def _attends(graph: Any) -> bool:
    """Whether it is a transformer, of texts or images: what nncf calls one is quantised by other rules."""
    return any(node.get_type_name() in ("ScaledDotProductAttention", "Softmax") for node in graph.get_ops())


@contextmanager
def _silent() -> Iterator[None]:
    """No progress bars, no log lines; nncf's import also makes its own class that of every logger to come: undone."""
    import rich

    console, loggers, ours = rich.get_console(), logging.getLoggerClass(), logging.getLogger("nncf")
    before, level = console.quiet, ours.level
    console.quiet = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import nncf  # noqa: F401 - sets its own level at import

            logging.setLoggerClass(loggers)
            ours.setLevel(logging.CRITICAL)
            yield
    finally:
        ours.setLevel(level)
        console.quiet = before
