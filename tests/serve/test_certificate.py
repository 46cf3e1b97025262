"""Files that are to be a certificate and its key, and what becomes of them as they change."""

from __future__ import annotations

from pathlib import Path

import pytest

from raystore.errors import InvalidArguments
from raystore.serve.door.certificate import Pair, as_one
from raystore.serve.run.proxy import ProxyFolder
from raystore.serve.spec.door import Tls
from tests.serve.certificates import made, self_signed


def test_a_pair_is_read_from_two_files_or_from_one_whatever_their_names(tmp_path: Path) -> None:
    (folder := tmp_path / 'it\'s a "renewed" schlüssel').mkdir()
    certificate, key = self_signed(folder)
    both = folder / "both of them.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    assert Pair(certificate, key).read() == (certificate.read_bytes(), key.read_bytes())
    assert Pair(both).read() == (both.read_bytes(),)


WHOLE, OTHER = made(1), made(2)
NO_PAIRS = {
    "a key of another certificate": (WHOLE[0], OTHER[1], "key values mismatch"),
    "nothing yet": (b"", b"", "not PEM, cut off, or with a password"),
    "half a certificate": (WHOLE[0][:200], WHOLE[1], "not PEM, cut off, or with a password"),
    "a chain that is cut off": (WHOLE[0] + OTHER[0][:200], WHOLE[1], None),
    "a key with a password": (*made(3, b"secret"), "not PEM, cut off, or with a password"),
}


@pytest.mark.parametrize("what", NO_PAIRS)
def test_what_is_no_pair_is_said_and_the_one_from_before_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    certificate, key = self_signed(tmp_path)
    before = (certificate.read_bytes(), key.read_bytes())
    pair = Pair(certificate, key)
    assert pair.newest() == before
    *contents, why = NO_PAIRS[what]
    for file, content in zip((certificate, key), contents, strict=True):
        file.write_bytes(content)  # type: ignore[arg-type]
    assert [pair.newest() for _ in range(3)] == [before] * 3
    [said] = caplog.messages
    assert said.startswith(f"serve over TLS: '{certificate}' and '{key}' are no certificate and its key (")
    assert why is None or said.endswith(f"({why}). The certificate from before stays")
    with pytest.raises(InvalidArguments):
        pair.read()
    with pytest.raises(InvalidArguments):
        ProxyFolder("/bin/true", Tls(certificate=certificate, key=key))
    assert Pair(certificate, key).newest() is None

    for file, content in zip((certificate, key), OTHER, strict=True):
        file.write_bytes(content)
    assert pair.newest() == OTHER


def test_as_one_text_a_pair_has_no_empty_line_and_nothing_between_its_blocks() -> None:
    certificate, key = (part.decode("ascii") for part in WHOLE)
    explained = f"Bag Attributes: Müller\n\n{certificate}\n".replace("\n", "\r\n").encode()
    assert as_one([explained, key.encode()]) == certificate + key
