"""Encoders: passports, golden vectors, text models and the backends that run them.

passport.py  what an encoder is        golden.py   how a moved one is noticed
source.py    where its files come from  text.py     reading them with sentence-transformers
tokens.py    texts to batches           backends.py, torch_backend.py, openvino_backend.py
records.py   what the store keeps       loaded.py   a model in memory      registry.py  names
"""

from __future__ import annotations

from raystore.encoders.loaded import LoadedEncoder, open_encoder
from raystore.encoders.passport import Passport
from raystore.encoders.registry import Encoder, Encoders

__all__ = ["Encoder", "Encoders", "LoadedEncoder", "Passport", "open_encoder"]
