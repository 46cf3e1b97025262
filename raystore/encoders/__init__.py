"""Encoders: passports, golden vectors, text and image models and the backends that run them.

passport.py  what an encoder is          golden.py, image_probes.py   how a moved one is noticed
source.py    where its files come from   load.py, text.py, vision.py  reading them       card.py  what their authors say
tokenizer.py, tokens.py  texts to batches pictures.py, images.py, pixels.py               image files to batches
backends.py, torch_, openvino_, onnx_backend.py   running them        exports.py, equivalence.py  and whether it is the same
records.py   what the store keeps        opening.py, loaded.py        a model in memory  registry.py  names
derive.py, quantize.py  other precisions  bench.py, compare.py, plan.py  measured, side by side, foretold    sample.py  items
basis.py     what is compared on         choice.py, recommendation.py  how a way to run it is had, and which to take
"""

from __future__ import annotations

from raystore.encoders.loaded import LoadedEncoder
from raystore.encoders.opening import open_encoder
from raystore.encoders.passport import Passport
from raystore.encoders.registry import Encoder, Encoders

__all__ = ["Encoder", "Encoders", "LoadedEncoder", "Passport", "open_encoder"]
