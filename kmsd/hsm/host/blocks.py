"""AES-CBC built of single blocks, for tokens that give away no more (NIST SP 800-38A, 6.2). Pure: bytes and a cipher.

p11-kit before 0.25 passes on only mechanisms without a parameter: AES-ECB, but not AES-CBC with its IV. What comes out
here is AES-CBC all the same. Encrypting takes a call for each block, decrypting one for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

BLOCK: Final = 16


def encrypt_cbc(encrypt_block: Callable[[bytes], bytes], iv: bytes, blocks: bytes) -> bytes:
    """Encrypt by C_i = E(P_i xor C_{i-1}), C_0 = iv. encrypt_block: of 16 bytes."""
    last, sealed = iv, bytearray()
    for at in range(0, len(blocks), BLOCK):
        last = encrypt_block(_xor(blocks[at : at + BLOCK], last))
        sealed += last
    return bytes(sealed)


def decrypt_cbc(decrypt_blocks: Callable[[bytes], bytes], iv: bytes, sealed: bytes) -> bytes:
    """Decrypt by P_i = D(C_i) xor C_{i-1}, C_0 = iv. decrypt_blocks: of all blocks, each by itself."""
    return _xor(decrypt_blocks(sealed), (iv + sealed)[: len(sealed)])


def _xor(left: bytes, right: bytes) -> bytes:
    if len(left) != len(right):
        raise ValueError("the token gave another number of bytes than it was asked for")
    return (int.from_bytes(left) ^ int.from_bytes(right)).to_bytes(len(left))
