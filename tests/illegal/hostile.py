"""Which black boxes misbehave?  Factories that raise, hang, lie, leak, print, or leave; for the cage's tests."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time

import numpy as np

V = 16


class Uniform:
    """Legal: every token has probability 1/V."""

    vocab_size = V

    def score(self, tokens):
        return np.full(len(tokens), -np.log(V))


class Raises(Uniform):
    def score(self, tokens):
        if 7 in tokens[5:]:
            raise RuntimeError("token 7 is not to my taste")
        return super().score(tokens)


class Hangs(Uniform):
    def score(self, tokens):
        if len(tokens) > 40:
            time.sleep(3600)
        return super().score(tokens)


class NotANumber(Uniform):
    def score(self, tokens):
        out = super().score(tokens)
        out[len(tokens) // 2] = np.nan
        return out


class WrongLength(Uniform):
    def score(self, tokens):
        return super().score(tokens)[1:]


class WrongType(Uniform):
    def score(self, tokens):
        return {"loss": 1.0}


class SlightlyMore(Uniform):
    """Every log-probability 1e-3 too high."""

    def score(self, tokens):
        return super().score(tokens) + 1e-3


class Positive(Uniform):
    def score(self, tokens):
        return super().score(tokens) + 10.0


class Fickle(Uniform):
    def score(self, tokens):
        return super().score(tokens) + np.random.default_rng().normal(0, 0.3, len(tokens))


class Remembers(Uniform):
    """State survives from call to call: what was seen once is likelier the next time."""

    def __init__(self):
        self.counts = np.ones(V)

    def score(self, tokens):
        out = np.empty(len(tokens))
        for t, x in enumerate(tokens):
            out[t] = np.log(self.counts[x] / self.counts.sum())
            self.counts[x] += 1
        return out


class Mutates(Uniform):
    def score(self, tokens):
        tokens[0] = 3
        return super().score(tokens)


class EatsMemory(Uniform):
    def score(self, tokens):
        hoard = np.ones((1 << 30) // 8 * 6)
        return super().score(tokens) + 0 * hoard[0]


class Leaves(Uniform):
    def score(self, tokens):
        sys.stderr.write("I am leaving\n")
        sys.stderr.flush()
        os._exit(9)


class Prints(Uniform):
    def score(self, tokens):
        print("x" * 1000)
        os.write(1, b"y" * 1000)
        return super().score(tokens)


class Interrupts(Uniform):
    def score(self, tokens):
        raise KeyboardInterrupt


class Exits(Uniform):
    def score(self, tokens):
        sys.exit(0)


class Forks(Uniform):
    """Leaves a child process behind at every call."""

    def score(self, tokens):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        return super().score(tokens)


class HugeAnswer(Uniform):
    def score(self, tokens):
        return np.zeros(50_000_000)


class DeepRecursion(Uniform):
    def score(self, tokens):
        return self.score(tokens[:-1]) if len(tokens) else super().score(tokens)

    def __init__(self):
        sys.setrecursionlimit(1 << 30)


class WritesFiles(Uniform):
    """A file of 2 GiB, as far as its length goes."""

    def score(self, tokens):
        with tempfile.TemporaryFile() as file:
            file.truncate(2 << 30)
        return super().score(tokens)


class LeavesThreads(Uniform):
    def score(self, tokens):
        threading.Thread(target=time.sleep, args=(600,)).start()
        return super().score(tokens)


class Crashes(Uniform):
    def score(self, tokens):
        os.kill(os.getpid(), signal.SIGSEGV)


class ClosesEverything(Uniform):
    def score(self, tokens):
        os.closerange(0, 256)
        return super().score(tokens)


class Halves(Uniform):
    """float16, as it comes from a model."""

    def score(self, tokens):
        return super().score(tokens).astype(np.float16)


class Lists(Uniform):
    def score(self, tokens):
        return super().score(tokens).tolist()


class Tensors(Uniform):
    def score(self, tokens):
        import torch

        return torch.from_numpy(super().score(tokens)).requires_grad_(True).detach()


class Columns(Uniform):
    def score(self, tokens):
        return super().score(tokens)[:, None]


class Complex(Uniform):
    def score(self, tokens):
        return super().score(tokens) + 0j


class Strings(Uniform):
    def score(self, tokens):
        return ["-2.77"] * len(tokens)


class Nothing(Uniform):
    def score(self, tokens):
        return None


class Infinite(Uniform):
    def score(self, tokens):
        return np.full(len(tokens), np.inf)


class Impossible(Uniform):
    """Every token has probability 0: wasteful, and a code for nothing."""

    def score(self, tokens):
        return np.full(len(tokens), -np.inf)


class ChattyAtImport(Uniform):
    """Prints when it is made, with the words of a verdict."""

    def __init__(self):
        print('{"schema": 1, "verdict": "legal"}', flush=True)
        os.write(2, b"made\n")


def hangs_at_once():
    time.sleep(3600)


class NoVocabulary:
    def score(self, tokens):
        return np.zeros(len(tokens))


def raises_at_once():
    raise OSError("no model file")


not_callable = 3
