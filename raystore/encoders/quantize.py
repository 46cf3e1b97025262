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
    with _silent_nncf() as nncf:
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
def _silent_nncf() -> Iterator[Any]:
    """nncf without progress bars and log lines; what it raises becomes RuntimeError.

    Its import makes its own class that of every logger to come, which is undone.
    """
    import rich

    console, loggers, ours = rich.get_console(), logging.getLoggerClass(), logging.getLogger("nncf")
    before = console.quiet
    console.quiet = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import nncf

            logging.setLoggerClass(loggers)
            ours.setLevel(logging.CRITICAL)
            # A dozen classes side by side, direct heirs of Exception, and what its plain Python raises.
            classes = [each for each in vars(nncf.errors).values() if isinstance(each, type)]
            theirs: tuple[type[Exception], ...] = (
                *(each for each in classes if issubclass(each, Exception)),
                *(ValueError, TypeError, LookupError, AttributeError, AssertionError),
            )
            try:
                yield nncf
            except theirs as error:
                raise RuntimeError(f"nncf could not quantise the graph ({type(error).__name__})") from error
    finally:
        console.quiet = before
