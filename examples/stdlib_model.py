"""Text that every machine with Python has, and a small character-level transformer that learns it."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

# Modules that are single files in every supported version of Python.
MODULES = """
    argparse ast bdb calendar cmd codecs configparser contextlib copy csv dataclasses difflib dis
    doctest enum filecmp fractions ftplib functools getopt gettext glob gzip heapq hmac imaplib inspect
    ipaddress locale lzma mailbox mimetypes netrc optparse pdb pickle pickletools platform plistlib
    poplib pprint profile pstats pydoc queue random sched selectors shelve shlex shutil smtplib socket
    socketserver ssl statistics string subprocess tarfile tempfile textwrap threading timeit token
    tokenize trace traceback typing uuid warnings wave weakref
""".split()  # noqa: SIM905 (reads better than a list of strings)
OTHER = 128  # the id of every character that is not ASCII; the ids of ASCII characters are their codes
VOCABULARY = 129
LONGEST_CONTEXT = 1024


# The text


def read_text() -> tuple[Tensor, Tensor]:
    """The ids of the characters for training, and those of the last tenth, for validation."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = [path for name in MODULES if (path := folder / f"{name}.py").is_file()]
    text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in files)
    if len(text) < 20 * (LONGEST_CONTEXT + 1):
        sys.exit(f"{folder} has too few source files of the standard library ({len(files)} of {len(MODULES)})")
    ids = torch.frombuffer(bytearray(min(ord(character), OTHER) for character in text), dtype=torch.uint8)
    cut = len(ids) * 9 // 10
    return ids[:cut], ids[cut:]


def windows(ids: Tensor, starts: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, the same characters one place later, of the windows that begin at ``starts``."""
    rows = ids[starts[:, None] + torch.arange(context + 1)].long()
    return rows[:, :-1], rows[:, 1:]


# The model


def rotate(x: Tensor) -> Tensor:
    """Rotary position embedding (arXiv:2104.09864); learned positions would need a longer training."""
    length, size = x.shape[-2:]
    angles = torch.outer(torch.arange(length), 10_000 ** (-torch.arange(0, size, 2) / size))
    cos, sin = angles.cos(), angles.sin()
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Block(nn.Module):
    """Attention and a two-layer perceptron, each normalised before and added to the stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Batch x context x width, in and out."""
        q, k, v = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
        x = x + self.projection(mixed.transpose(1, 2).flatten(2))
        added: Tensor = x + self.mlp(self.mlp_norm(x))
        return added


class Transformer(nn.Module):
    """Predicts the next character. The output layer has the weights of the embedding."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)  # with this the first prediction is close to uniform

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean cross entropy in nats per character."""
        logits = F.linear(self.norm(self.blocks(self.characters(inputs))), self.characters.weight)
        loss: Tensor = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return loss
