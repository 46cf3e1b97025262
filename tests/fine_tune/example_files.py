"""Small labelled files, a real tokenizer and the passports of bases that read them; no model is needed to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from raystore.encoders.passport import ImagePart, Passport, TextPart
from raystore.encoders.tokenizer import canonical_tokenizer
from raystore.fine_tune.examples.reader import ItemReader

IMAGE = ImagePart(pooling="pooler", resize="shortest", size=(20, 20), kernel="bilinear", crop=(16, 16), rescale=1 / 255)


def tokenizer_json(*, type_of_last: int = 0) -> str:
    """Letters and their continuations between [CLS] and [SEP], as BERT has it; a word of six letters is six tokens."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocab)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"[CLS]:0 $A:0 [SEP]:{type_of_last}", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return canonical_tokenizer(tokenizer.to_str())


def text_part(**options: Any) -> TextPart:
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    return TextPart(**{"pooling": "mean", "tokenizer": "0" * 64, "inputs": inputs, "max_length": 64, **options})


def passport(text: TextPart | None = None, image: ImagePart | None = None) -> Passport:
    return Passport(weights="0" * 64, architecture="Toy", config="0" * 64, dim=4, text=text, image=image)


def text_reader(**options: Any) -> ItemReader:
    return ItemReader(passport(text_part()), tokenizer_json(), **options)


def image_reader(**options: Any) -> ItemReader:
    return ItemReader(passport(image=IMAGE), **options)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path
