"""Writing `bits_per_byte`: the fair ruler, over several documents."""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

from picolm_lib.course.checks import Exercise


def size(texts: list[str]) -> int:
    """Bytes of all texts."""
    return sum(len(text.encode()) for text in texts)


def bits(losses: list[Tensor], texts: list[str]) -> float:
    """The right answer."""
    return sum(loss.sum().item() for loss in losses) / math.log(2) / size(texts)


def tokens(losses: list[Tensor]) -> int:
    """Tokens of all documents."""
    return sum(len(loss) for loss in losses)


def per_document(losses: list[Tensor], texts: list[str]) -> list[float]:
    """Bits per byte of each document."""
    return [bits([loss], [text]) for loss, text in zip(losses, texts, strict=True)]


def _losses() -> list[tuple]:
    """Documents of several languages and lengths, with made-up losses."""
    generator = torch.Generator("cpu").manual_seed(0)
    groups = [["Hi."], ["Once upon a time.", "A naïve fox ate crème brûlée."],
              ["¡Olé!", "A", "The cat sat on the mat, and nothing else happened at all."]]
    return [([3 * torch.rand(1 + len(t) // 4, generator=generator, device="cpu") for t in group],
             group) for group in groups]


bits_per_byte = Exercise(
    reference=bits,
    cases=_losses,
    praise="Right: all bits of all documents, divided by all their bytes.",
    mistakes={
        "that is bits per token: divide by the bytes of the texts, not by the number of tokens.":
            lambda x, t: bits(x, t) * size(t) / tokens(x),
        "that is nats per token: change nats into bits, and divide by the bytes.":
            lambda x, t: torch.cat(x).mean().item(),
        "those are nats per byte. One bit is ln 2 nats: divide by math.log(2).":
            lambda x, t: bits(x, t) * math.log(2),
        "you multiplied by ln 2 where you should divide: one bit is ln 2 nats, so there are more "
        "bits than nats.": lambda x, t: bits(x, t) * math.log(2) ** 2,
        "you divided by ln 2 twice.": lambda x, t: bits(x, t) / math.log(2),
        "you divided by 2, not by ln 2.": lambda x, t: bits(x, t) * math.log(2) / 2,
        "you counted characters. Count bytes: len(text.encode()). A letter such as ï has two "
        "bytes.": lambda x, t: bits(x, t) * size(t) / sum(map(len, t)),
        "you counted words. Count bytes: len(text.encode()).":
            lambda x, t: bits(x, t) * size(t) / sum(len(s.split()) for s in t),
        "you took the mean of the documents' own results, so a short document counts as much as a "
        "long one. Add up all bits and all bytes first.":
            lambda x, t: sum(per_document(x, t)) / len(t),
        "you added up the documents' own results. Add up all bits and all bytes first, and divide "
        "then.": lambda x, t: sum(per_document(x, t)),
        "you took the mean loss per token, and divided it by all bytes: add up the losses.":
            lambda x, t: torch.cat(x).mean().item() / math.log(2) / size(t),
        "you added up the documents' mean losses: add up the losses of all tokens.":
            lambda x, t: sum(v.mean().item() for v in x) / math.log(2) / size(t),
        "you took the mean of the documents' mean losses over all bytes: add up the losses of all "
        "tokens.": lambda x, t: sum(v.mean().item() for v in x) / len(x) / math.log(2) / size(
            t),
        "you took the mean loss of all tokens by the mean number of bytes of a document. Add up "
        "both.": lambda x, t: torch.cat(x).mean().item() / math.log(2) / size(t) * len(t),
        "it is upside down: bits divided by bytes, not bytes by bits.":
            lambda x, t: 1 / bits(x, t),
        "you used the logarithm to base 10. One bit is ln 2 nats: math.log(2), the natural one.":
            lambda x, t: bits(x, t) * math.log(2) / math.log10(2),
        "you took the logarithm of the losses. They are nats already: only divide by ln 2.":
            lambda x, t: torch.cat(x).log2().sum().item() / size(t),
        "you took 2 to the power of it, or e: that is a perplexity. Bits are only divided.":
            lambda x, t: 2 ** bits(x, t),
        "you took e to the power of the loss: that is a perplexity. Bits are only divided.":
            lambda x, t: torch.cat(x).mean().exp().item(),
        "the bits are multiplied by the bytes: brackets are missing, or / became *.":
            lambda x, t: bits(x, t) * size(t) ** 2,
        "you took the logarithm to base 2 of the sum of the losses. They are nats already: only "
        "divide by ln 2.": lambda x, t: math.log2(torch.cat(x).sum().item()) / size(t),
        "you took the logarithm to base 2 of the documents' sums. They are nats already: only "
        "divide by ln 2.": lambda x, t: sum(math.log2(v.sum().item()) for v in x) / size(t),
        "you took the logarithm of the bits, or of the ratio. Only divide by ln 2.":
            lambda x, t: math.log2(torch.cat(x).sum().item() / size(t)),
        "sys.getsizeof is the memory that Python's string takes up. Count the bytes of the text: "
        "len(text.encode()).": lambda x, t: bits(x, t) * size(t) / sum(map(sys.getsizeof, t)),
        "you put something between the texts, which adds bytes. Count the bytes of each text.":
            lambda x, t: bits(x, t) * size(t) / len("\n".join(t).encode()),
        "you counted bytes in UTF-16. A text here is stored in UTF-8: text.encode().":
            lambda x, t: bits(x, t) * size(t) / sum(len(s.encode("utf-16")) for s in t),
        "you counted two bytes per character. In UTF-8, an English letter has one byte.":
            lambda x, t: bits(x, t) * size(t) / sum(2 * len(s) for s in t),
        "you dropped the letters that are not ASCII. In UTF-8, they have bytes, too.":
            lambda x, t: bits(x, t) * size(t) / sum(len(s.encode("ascii", "ignore")) for s in t),
        "the result is rounded. Return it as it is, and round only where it is shown.":
            lambda x, t: round(bits(x, t), 2),
        "the result is rounded. Return it as it is, and round only where you show it.":
            lambda x, t: round(bits(x, t), 3),
        "`//` rounds down to a whole number. Use `/`.": lambda x, t: bits(x, t) // 1,
        "you multiplied by 1.4427 and divided by it again, or took nats for bits of 8: look at "
        "the units once more. Nats / ln 2 are bits.": lambda x, t: bits(x, t) * math.log(2) / 8,
        "you took the mean of the documents' results weighted by their tokens. Their bytes are the "
        "weights: add up all bits and all bytes first.": lambda x, t: sum(
            b * len(v) for b, v in zip(per_document(x, t), x, strict=True)) / tokens(x),
        "you took the largest of the documents' results. Add up all bits and all bytes.":
            lambda x, t: max(per_document(x, t)),
        "the first loss of each document is left out.":
            lambda x, t: bits([v[1:] for v in x], t),
        "the last loss of each document is left out.":
            lambda x, t: bits([v[:-1] for v in x], t),
        "you left out the last document.": lambda x, t: bits(x[:-1], t[:-1]) if t[1:] else 0.0,
        "you counted the bytes of the first text only.":
            lambda x, t: bits(x, t) * size(t) / size(t[:1]),
        "you counted the bytes of the last text only: their sum has to grow in the loop (+=).":
            lambda x, t: bits(x, t) * size(t) / size(t[-1:]),
        "you added up the losses of the last document only: the sum has to grow in the loop (+=).":
            lambda x, t: bits(x[-1:], t[-1:]) * size(t[-1:]) / size(t),
        "you added up the losses of the first document only.":
            lambda x, t: bits(x[:1], t[:1]) * size(t[:1]) / size(t),
        "the sign is wrong: a loss is above 0, and so are the bits.": lambda x, t: -bits(x, t),
        "you divided by 8. A byte has 8 bits, but here bits are what the model pays, and bytes are "
        "how long the text is.": lambda x, t: bits(x, t) / 8,
        "you multiplied by 8. A byte has 8 bits, but here bits are what the model pays, and bytes "
        "are how long the text is.": lambda x, t: bits(x, t) * 8,
        "you looked at the first document only.": lambda x, t: bits(x[:1], t[:1]),
        "you looked at the last document only: a sum has to grow in the loop (+=).":
            lambda x, t: bits(x[-1:], t[-1:]),
        "your sums are right, but not divided by the bytes.":
            lambda x, t: bits(x, t) * size(t),
        "you divided by the number of documents, not by their bytes.":
            lambda x, t: bits(x, t) * size(t) / len(t),
        "the bytes are counted once for each document, perhaps in a loop within a loop, or you "
        "divided by the number of documents as well.":
            lambda x, t: bits(x, t) / len(t),
        "you return one number per document. Add up all bits and all bytes, and divide then.":
            per_document,
    })
