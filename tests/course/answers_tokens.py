"""Answers to the exercises of notebook 01 by learners who had not seen the checks.

Of some hundred, a few for each exercise: wrong ones with what the check must say, and right ones.
"""

WRONG: list[tuple[str, str, str]] = [
    ("merge", 'your function stopped with IndexError', """
def merge(ids, pair, new):
    out = []
    i = 0
    while i < len(ids):
        if ids[i] == pair[0] and ids[i + 1] == pair[1]:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out
"""),
    ("merge", 'only the first occurrence is merged', """
def merge(ids, pair, new):
    for i in range(len(ids) - 1):
        if (ids[i], ids[i + 1]) == pair:
            return ids[:i] + [new] + ids[i + 2:]
    return list(ids)
"""),
    ("merge", 'your function returns nothing', """
def merge(ids, pair, new):
    out = []
    i = 0
    while i < len(ids):
        if i + 1 < len(ids) and ids[i] == pair[0] and ids[i + 1] == pair[1]:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
"""),
    ("merge", 'you looked only at places 0, 2, 4 and so on', """
def merge(ids, pair, new):
    out = []
    for i in range(0, len(ids), 2):
        chunk = ids[i:i + 2]
        if tuple(chunk) == pair:
            out.append(new)
        else:
            out.extend(chunk)
    return out
"""),
    ("merge", 'the last token got lost where it is in no pair', """
def merge(ids, pair, new):
    out = []
    skip = False
    for i in range(len(ids) - 1):
        if skip:
            skip = False
            continue
        if (ids[i], ids[i+1]) == pair:
            out.append(new)
            skip = True
        else:
            out.append(ids[i])
    return out
"""),
    ("merge", 'your function does not end', """
def merge(ids, pair, new):
    result = []
    i = 0
    while i < len(ids):
        if i < len(ids) - 1 and ids[i] == pair[0] and ids[i+1] == pair[1]:
            result.append(new)
            i += 2
        elif i == len(ids) - 1:
            result.append(ids[i])
            i += 1
        else:
            result.append(ids[i])
    return result
"""),
    ("merge", 'your function returns its input as it was', """
def merge(ids, pair, new):
    out = []
    i = 0
    while i < len(ids):
        if ids[i:i+2] == pair:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out
"""),
    ("merge", 'the new token stands at both places of the pair', """
def merge(ids, pair, new):
    out = list(ids)
    for i in range(len(ids) - 1):
        if out[i] == pair[0] and out[i+1] == pair[1]:
            out[i] = new
            out[i+1] = new
    return out
"""),
    ("learn_merges", 'of equally frequent pairs you took the largest', """
def learn_merges(words, count, first_new=262):
    merges = {}
    for i in range(count):
        pairs = count_pairs(words)
        if not pairs:
            break
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges[best] = first_new + i
        words = {tuple(merge(list(w), best, first_new + i)): n for w, n in words.items()}
    return merges
"""),
    ("learn_merges", 'your function stopped with ValueError', """
def learn_merges(words, count, first_new=262):
    merges = {}
    for new in range(first_new, first_new + count):
        pairs = count_pairs(words)
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges[best] = new
        words = {tuple(merge(list(w), best, new)): n for w, n in words.items()}
    return merges
"""),
    ("learn_merges", 'keys and values are swapped', """
def learn_merges(words, count, first_new=262):
    merges = {}
    for i in range(count):
        pairs = count_pairs(words)
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges[first_new + i] = best
        words = {tuple(merge(list(w), best, first_new + i)): n for w, n in words.items()}
    return merges
"""),
    ("learn_merges", 'after a merge each word counts once', """
def learn_merges(words, count, first_new=262):
    merges = {}
    for i in range(count):
        pairs = count_pairs(words)
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges[best] = first_new + i
        words = Counter(tuple(merge(list(w), best, first_new + i)) for w in words)
    return merges
"""),
    ("learn_merges", 'of equally frequent pairs you took the one that was counted first', """
def learn_merges(words, count, first_new=262):
    merges = {}
    new = first_new
    while len(merges) < count:
        counts = count_pairs(words)
        if len(counts) == 0:
            break
        pair, n = counts.most_common(1)[0]
        merges[pair] = new
        words = {tuple(merge(list(w), pair, new)): k for w, k in words.items()}
        new += 1
    return merges
"""),
    ("learn_merges", 'your function stopped with ValueError', """
def learn_merges(words, count, first_new=262):
    merges = {}
    for step in range(count):
        counts = count_pairs(words)
        best = min(counts, key=lambda p: (-counts[p], p))
        merges[best] = first_new + step
        words = {tuple(merge(list(w), best, first_new + step)): n for w, n in words.items()}
    return merges
"""),
    ("learn_merges", 'you took the rarest pair', """
def learn_merges(words, count, first_new=262):
    merges = {}
    for new in range(first_new, first_new + count):
        counts = count_pairs(words)
        if not counts:
            break
        best = min(counts, key=lambda p: (counts[p], p))
        merges[best] = new
        words = {tuple(merge(list(w), best, new)): n for w, n in words.items()}
    return merges
"""),
    ("learn_merges", 'each word is counted once, however often it occurs', """
def learn_merges(words, count, first_new=262):
    merges = {}
    for new in range(first_new, first_new + count):
        counts = Counter()
        for w in words:
            for p in zip(w, w[1:]):
                counts[p] += 1
        if not counts:
            break
        best = min(counts, key=lambda p: (-counts[p], p))
        merges[best] = new
        words = {tuple(merge(list(w), best, new)): n for w, n in words.items()}
    return merges
"""),
    ("encode_word", 'you return after the first entry of the table', """
def encode_word(ids, merges):
    for pair, new in merges.items():
        ids = merge(ids, pair, new)
        return ids
    return ids
"""),
    ("encode_word", 'you went through the word once, from left to right', """
def encode_word(ids, merges):
    out = []
    i = 0
    while i < len(ids):
        if i + 1 < len(ids) and (ids[i], ids[i + 1]) in merges:
            out.append(merges[(ids[i], ids[i + 1])])
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out
"""),
    ("encode_word", 'you stop at the first merge that does not occur in the word', """
def encode_word(ids, merges):
    for pair, new in merges.items():
        merged = merge(ids, pair, new)
        if merged == ids:
            break
        ids = merged
    return ids
"""),
    ("encode_word", 'only the first occurrence of each pair is merged', """
def encode_word(ids, merges):
    ids = list(ids)
    for (a, b), new in merges.items():
        for i in range(len(ids) - 1):
            if ids[i] == a and ids[i + 1] == b:
                ids[i:i + 2] = [new]
                break
    return ids
"""),
    ("encode_word", 'you went through the merges from the last to the first', """
def encode_word(ids, merges):
    # the newest merges are the longest tokens, try them first
    for pair, new in reversed(list(merges.items())):
        ids = merge(ids, pair, new)
    return ids
"""),
    ("encode_word", 'the new ids are counted from 262', """
def encode_word(ids, merges):
    for n, pair in enumerate(merges):
        ids = merge(ids, pair, 262 + n)
    return ids
"""),
    ("encode_word", 'your function does not end', """
def encode_word(ids, merges):
    while len(ids) > 1:
        for pair, new in merges.items():
            ids = merge(ids, pair, new)
    return ids
"""),
    ("encode_word", 'you added 6 to the ids', """
def encode_word(ids, merges):
    ids = [b + 6 for b in ids]   # the first six ids are special
    for pair, new in merges.items():
        ids = merge(ids, pair, new)
    return ids
"""),
    ("decode", 'bytes that are no character stop your function', """
def decode(ids, vocabulary):
    return b"".join(vocabulary[i] for i in ids).decode("utf-8")
"""),
    ("decode", 'you turned the bytes into a string with str', """
def decode(ids, vocabulary):
    return str(b"".join(vocabulary[i] for i in ids))
"""),
    ("decode", 'only the first token is decoded', """
def decode(ids, vocabulary):
    data = b""
    for i in ids:
        data += vocabulary[i]
        return data.decode("utf-8", errors="replace")
    return ""
"""),
    ("decode", 'your function returns nothing', """
def decode(ids, vocabulary):
    data = b"".join(vocabulary[i] for i in ids)
    data.decode("utf-8", errors="replace")
"""),
    ("decode", 'your function stopped with TypeError', """
def decode(ids, vocabulary):
    text = ""
    for i in ids:
        text += vocabulary[i]
    return text
"""),
    ("bits_per_byte", 'you multiplied by ln 2 where you should divide', """
def bits_per_byte(losses, texts):
    total = sum(l.sum().item() for l in losses) * math.log(2)
    n = sum(len(t.encode("utf-8")) for t in texts)
    return total / n
"""),
    ("bits_per_byte", 'you took the logarithm to base 2 of the sum of the losses', """
def bits_per_byte(losses, texts):
    nats = sum(l.sum().item() for l in losses)
    n = sum(len(t.encode("utf-8")) for t in texts)
    return math.log2(nats) / n
"""),
    ("bits_per_byte", 'one Python number is expected, yours is a tensor of one number', """
def bits_per_byte(losses, texts):
    nats = torch.cat(losses).sum()
    n = sum(len(t.encode("utf-8")) for t in texts)
    return nats / math.log(2) / n
"""),
    ("bits_per_byte", 'you counted bytes in UTF-16', """
def bits_per_byte(losses, texts):
    nats = sum(l.sum().item() for l in losses)
    n = sum(len(t.encode("utf-16")) for t in texts)
    return nats / math.log(2) / n
"""),
    ("bits_per_byte", "you took the mean of the documents' own results, so a short document c", """
def bits_per_byte(losses, texts):
    values = []
    for loss, text in zip(losses, texts):
        bits = loss.sum().item() / math.log(2)
        values.append(bits / len(text.encode("utf-8")))
    return sum(values) / len(values)
"""),
    ("bits_per_byte", 'the bytes are counted once for each document, perhaps in a loop within', """
def bits_per_byte(losses, texts):
    total_bits = 0.0
    total_bytes = 0
    for loss in losses:
        total_bits += float(loss.sum()) / math.log(2)
        for text in texts:
            total_bytes += len(text.encode("utf-8"))
    return total_bits / total_bytes
"""),
    ("bits_per_byte", 'your function returns nothing', """
def bits_per_byte(losses, texts):
    bits = sum(loss.sum().item() for loss in losses) / math.log(2)
    n = sum(len(t.encode("utf-8")) for t in texts)
    print(bits / n)
"""),
    ("windows", 'your targets are the inputs themselves', """
def windows(stream, length):
    n = (len(stream) - 1) // length
    inputs = stream[:n * length].reshape(n, length)
    targets = stream[:n * length].reshape(n, length)
    return inputs, targets
"""),
    ("windows", 'your windows have one token too few', """
def windows(stream, length):
    n = len(stream) // length
    chunks = stream[:n * length].view(n, length)
    return chunks[:, :-1], chunks[:, 1:]
"""),
    ("windows", 'rows and columns are swapped', """
def windows(stream, length):
    n = (len(stream) - 1) // length
    inputs = stream[:n * length].view(n, length).T
    targets = stream[1:n * length + 1].view(n, length).T
    return inputs, targets
"""),
    ("windows", 'return two tensors; yours are two lists of windows', """
def windows(stream, length):
    n = (len(stream) - 1) // length
    inputs, targets = [], []
    for i in range(n):
        inputs.append(stream[i * length:(i + 1) * length])
        targets.append(stream[i * length + 1:(i + 1) * length + 1])
    return inputs, targets
"""),
    ("windows", 'your windows overlap', """
def windows(stream, length):
    x = stream[:-1].unfold(0, length, 1)
    y = stream[1:].unfold(0, length, 1)
    return x, y
"""),
    ("windows", '', """
def windows(stream, length):
    n = (len(stream) - 1) // length
    inputs = stream[:n * length].view(length, n)
    targets = stream[1:n * length + 1].view(length, n)
    return inputs, targets
"""),
    ("windows", 'your function stopped with TypeError', """
def windows(stream, length):
    n = (len(stream) - 1) / length
    x = stream[:n * length].view(n, length)
    y = stream[1:n * length + 1].view(n, length)
    return x, y
"""),
    ("windows", 'you left out the last token of the stream, though it is the last targe', """
def windows(stream, length):
    xs, ys = [], []
    for i in range(0, len(stream) - length - 1, length):
        xs.append(stream[i:i + length])
        ys.append(stream[i + 1:i + length + 1])
    return torch.stack(xs), torch.stack(ys)
"""),
    ("quick_encode_word", 'the result is right, but your function goes through the whole table', """
def encode_word(ids, merges):
    while True:
        present = set(zip(ids, ids[1:]))
        found = [(new, pair) for pair, new in merges.items() if pair in present]
        if not found:
            return ids
        new, pair = min(found)
        ids = merge(ids, pair, new)
"""),
    ("quick_encode_word", 'you looked for pairs once, before the first merge', """
def encode_word(ids, merges):
    pairs = sorted({p for p in zip(ids, ids[1:]) if p in merges}, key=lambda p: merges[p])
    for p in pairs:
        ids = merge(ids, p, merges[p])
    return ids
"""),
    ("quick_encode_word", 'your function stopped with ValueError', """
def encode_word(ids, merges):
    while len(ids) > 1:
        pairs = [p for p in zip(ids, ids[1:]) if p in merges]
        best = min(pairs, key=lambda p: merges[p])
        ids = merge(ids, best, merges[best])
    return ids
"""),
    ("quick_encode_word", 'you merged from right to left', """
def encode_word(ids, merges):
    ids = list(ids)
    while True:
        where, smallest = -1, float("inf")
        for i in range(len(ids) - 1):
            new = merges.get((ids[i], ids[i + 1]), float("inf"))
            if new <= smallest and new != float("inf"):
                where, smallest = i, new
        if where < 0:
            return ids
        ids[where:where + 2] = [smallest]
"""),
    ("quick_encode_word", 'you took the merge that was learned last', """
def encode_word(ids, merges):
    while True:
        pairs = [p for p in zip(ids, ids[1:]) if p in merges]
        if not pairs:
            break
        best = max(pairs, key=lambda p: merges[p])
        ids = merge(ids, best, merges[best])
    return ids
"""),
    ("quick_encode_word", 'you took the smallest pair, not the one that was learned first', """
def encode_word(ids, merges):
    while True:
        candidates = [p for p in zip(ids, ids[1:]) if p in merges]
        if len(candidates) == 0:
            return ids
        best = min(candidates)
        ids = merge(ids, best, merges[best])
"""),
    ("quick_encode_word", 'your function returns nothing', """
def encode_word(ids, merges):
    while True:
        present = [(merges[p], p) for p in zip(ids, ids[1:]) if p in merges]
        if not present:
            break
        new, pair = min(present)
        ids = merge(ids, pair, new)
"""),
    ("quick_encode_word", 'you made one merge and stopped', """
def encode_word(ids, merges):
    best_new = math.inf
    while True:
        best = None
        for p in zip(ids, ids[1:]):
            if p in merges and merges[p] < best_new:
                best = p
                best_new = merges[p]
        if best is None:
            return ids
        ids = merge(ids, best, best_new)
"""),
    ("heal", 'the id 6 is missing', """
def heal(ids, vocabulary):
    taken = vocabulary[ids[-1]]
    allowed = [i for i, v in enumerate(vocabulary) if i > 6 and v.startswith(taken)]
    return ids[:-1], allowed
"""),
    ("heal", 'you left out the first six tokens and counted from 0 again', """
def heal(ids, vocabulary):
    taken = vocabulary[ids[-1]]
    return ids[:-1], [i for i, v in enumerate(vocabulary[6:]) if v.startswith(taken)]
"""),
    ("heal", 'you compare only the first byte', """
def heal(ids, vocabulary):
    taken = vocabulary[ids[-1]]
    allowed = [i for i in range(6, len(vocabulary)) if vocabulary[i][:1] == taken[:1]]
    return ids[:-1], allowed
"""),
    ("heal", 'it is the wrong way round', """
def heal(ids, vocabulary):
    last = vocabulary[ids[-1]]
    allowed = []
    for i in range(6, len(vocabulary)):
        if last.startswith(vocabulary[i]):
            allowed.append(i)
    return ids[:-1], allowed
"""),
    ("heal", 'you always look for a space', """
def heal(ids, vocabulary):
    allowed = []
    for i in range(6, len(vocabulary)):
        if vocabulary[i].startswith(b" "):
            allowed.append(i)
    return ids[:-1], allowed
"""),
    ("heal", 'you return only the first allowed token', """
def heal(ids, vocabulary):
    last = vocabulary[ids[-1]]
    allowed = []
    for i in range(6, len(vocabulary)):
        if vocabulary[i].startswith(last):
            allowed.append(i)
            return ids[:-1], allowed
"""),
    ("heal", 'the line `raise NotImplementedError` is still in your function and sto', """
def heal(ids, vocabulary):
    raise NotImplementedError  # your code
    last = vocabulary[ids[-1]]
    return ids[:-1], [i for i in range(6, len(vocabulary)) if vocabulary[i].startswith(last)]
"""),
]

RIGHT: list[tuple[str, str]] = [
    ("merge", """
def merge(ids, pair, new):
    out = []
    i = 0
    while i < len(ids):
        if i < len(ids) - 1 and ids[i] == pair[0] and ids[i + 1] == pair[1]:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out
"""),
    ("merge", """
def merge(ids, pair, new):
    out = []
    i = 0
    while i < len(ids):
        if i + 1 < len(ids) and ids[i] == pair[0] and ids[i + 1] == pair[1]:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out
"""),
    ("merge", """
def merge(ids, pair, new):
    out, i = [], 0
    while i < len(ids):
        if i + 1 < len(ids) and (ids[i], ids[i + 1]) == tuple(pair):
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out
"""),
    ("learn_merges", """
def learn_merges(words, count, first_new=262):
    merges = {}
    for i in range(count):
        pairs = count_pairs(words)
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges[best] = first_new + i
        words = {tuple(merge(list(w), best, first_new + i)): n for w, n in words.items()}
    return merges
"""),
    ("learn_merges", """
def learn_merges(words, count, first_new=262):
    merges = {}
    for i in range(count):
        pairs = count_pairs(words)
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges[best] = first_new + i
        words = {tuple(merge(list(w), best, first_new + i)): n for w, n in words.items()}
    return merges
"""),
    ("learn_merges", """
def learn_merges(words, count, first_new=262):
    merges = {}
    for i in range(count):
        counts = count_pairs(words)
        if not counts:
            break
        best = min(counts, key=lambda p: (-counts[p], p))
        merges[best] = first_new + i
        words = {tuple(merge(list(w), best, first_new + i)): n for w, n in words.items()}
    return merges
"""),
    ("encode_word", """
def encode_word(ids, merges):
    for pair, new in merges.items():
        ids = merge(ids, pair, new)
    return ids
"""),
    ("encode_word", """
def encode_word(ids, merges):
    for pair, new in merges.items():
        ids = merge(ids, pair, new)
    return ids
"""),
    ("encode_word", """
def encode_word(ids, merges):
    for pair, new in merges.items():
        ids = merge(ids, pair, new)
    return ids
"""),
    ("decode", """
def decode(ids, vocabulary):
    return b"".join(vocabulary[i] for i in ids).decode("utf-8", errors="replace")
"""),
    ("decode", """
def decode(ids, vocabulary):
    return b"".join(vocabulary[i] for i in ids).decode("utf-8", errors="replace")
"""),
    ("decode", """
def decode(ids, vocabulary):
    return b"".join(vocabulary[i] for i in ids).decode("utf-8", errors="replace")
"""),
    ("bits_per_byte", """
def bits_per_byte(losses, texts):
    nats = sum(l.sum().item() for l in losses)
    size = sum(len(t.encode("utf-8")) for t in texts)
    return nats / math.log(2) / size
"""),
    ("bits_per_byte", """
def bits_per_byte(losses, texts):
    nats = sum(l.sum().item() for l in losses)
    n = sum(len(t.encode("utf-8")) for t in texts)
    return nats / math.log(2) / n
"""),
    ("bits_per_byte", """
def bits_per_byte(losses, texts):
    nats = sum(loss.sum().item() for loss in losses)
    n_bytes = sum(len(t.encode("utf-8")) for t in texts)
    return nats / math.log(2) / n_bytes
"""),
    ("windows", """
def windows(stream, length):
    n = (len(stream) - 1) // length
    x = stream[:n * length].reshape(n, length)
    y = stream[1:n * length + 1].reshape(n, length)
    return x, y
"""),
    ("windows", """
def windows(stream, length):
    n = (len(stream) - 1) // length
    inputs = stream[:n * length].reshape(n, length)
    targets = stream[1:n * length + 1].reshape(n, length)
    return inputs, targets
"""),
    ("windows", """
def windows(stream, length):
    n = (len(stream) - 1) // length
    return stream[:n * length].view(n, length), stream[1:n * length + 1].view(n, length)
"""),
    ("quick_encode_word", """
def encode_word(ids, merges):
    ids = list(ids)
    while len(ids) > 1:
        best = min(zip(ids, ids[1:]), key=lambda p: merges.get(p, float("inf")))
        if best not in merges:
            break
        ids = merge(ids, best, merges[best])
    return ids
"""),
    ("quick_encode_word", """
def encode_word(ids, merges):
    while True:
        pairs = [p for p in zip(ids, ids[1:]) if p in merges]
        if not pairs:
            return ids
        best = min(pairs, key=lambda p: merges[p])
        ids = merge(ids, best, merges[best])
"""),
    ("quick_encode_word", """
def encode_word(ids, merges):
    while True:
        present = [p for p in zip(ids, ids[1:]) if p in merges]
        if not present:
            return ids
        best = min(present, key=lambda p: merges[p])
        ids = merge(ids, best, merges[best])
"""),
    ("heal", """
def heal(ids, vocabulary):
    prefix = vocabulary[ids[-1]]
    return ids[:-1], [i for i in range(6, len(vocabulary)) if vocabulary[i].startswith(prefix)]
"""),
    ("heal", """
def heal(ids, vocabulary):
    taken = vocabulary[ids[-1]]
    return ids[:-1], [i for i in range(6, len(vocabulary)) if vocabulary[i].startswith(taken)]
"""),
    ("heal", """
def heal(ids, vocabulary):
    last = vocabulary[ids[-1]]
    return ids[:-1], [i for i in range(6, len(vocabulary)) if vocabulary[i].startswith(last)]
"""),
]
