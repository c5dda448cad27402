"""The engine: a checkpoint that generates text (include/dsv4/dsv4.h).

    with dsv4.Model("models/nano") as model:
        print(model.generate("What is 2+2? Answer:", max_new=4))
        for piece in model.stream("Once upon a time", max_new=64):
            print(piece, end="", flush=True)

One model and its sessions belong to one thread at a time. It runs on the CPU.
"""
import codecs
import ctypes
import json
import os
from typing import Any, Callable, Iterator, List, Optional, Sequence, Set, Union

from . import native
from .errors import BadFile, InvalidArgument
from .native import CpuLevel, Numerics, lib

Prompt = Union[str, Sequence[int]]


def _sampling(temperature, top_p, min_p, top_k, seed):
    settings = native.Sampling()
    lib.dsv4_sampling_default(ctypes.byref(settings))
    settings.temperature = native.real(temperature, "temperature")
    settings.top_p, settings.min_p = native.real(top_p, "top_p"), native.real(min_p, "min_p")
    settings.top_k = native.integer(top_k, "top_k")
    if not 0 <= native.integer(seed, "seed", 65) < 1 << 64:
        raise InvalidArgument(f"seed: {seed}, expected 0 .. 2^64 - 1")
    settings.seed = seed
    return settings


def _check_sampling(settings):
    """dsv4_sample does not check its settings; the rules are those of dsv4_session_generate."""
    for name, most in (("temperature", float("inf")), ("top_p", 1.0), ("min_p", 1.0)):
        value = getattr(settings, name)
        if not 0.0 <= value <= most:
            raise InvalidArgument(f"sampling: {name}: {value:g}, expected 0 .. {most:g}")
    if settings.top_k < 0:
        raise InvalidArgument(f"sampling: top_k: {settings.top_k}, expected 0 or more")


def _id_list(name, values):
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        raise InvalidArgument(f"{name}: a {type(values).__name__}, expected a list of token ids")
    return list(values)


def _int32_array(values):
    """A C array; refuses what does not fit rather than cutting it."""
    values = _id_list("tokens", values)
    return (ctypes.c_int32 * len(values))(*[native.integer(value, f"tokens[{i}]") for i, value in enumerate(values)])


class _Decoder:
    """Bytes of tokens to text: a character that two tokens share comes with the second."""

    def __init__(self):
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, data: bytes, is_last: bool = False) -> str:
        return self._decoder.decode(data, is_last)


class Model:
    """A checkpoint directory as DeepSeek publishes it, mapped into memory.

        path           directory with config.json, *.safetensors, tokenizer.json
        numerics       "official": as DeepSeek's own code computes; "exact": f32 throughout
        n_threads      0: as many as OpenMP would use
        n_sessions     sessions at one time, forks included
        n_tokens       tokens that all sessions together can hold
        step_tokens    most tokens of one session that one internal step runs
        rewind_tokens  how far back a rewind costs nothing
        n_draft        0 or 1: tokens that generate() drafts per step with the MTP block
        progress       called as progress(n_done, n_total) while files are opened

    Raises dsv4.FileError, dsv4.BadFile, dsv4.Unsupported, dsv4.OutOfMemory or dsv4.InvalidArgument with the reason.
    """

    def __init__(self, path: Union[str, os.PathLike], *, numerics: Numerics = "official",
                 cpu_level: CpuLevel = "auto", n_threads: int = 0, n_sessions: int = 4, n_tokens: int = 8192,
                 step_tokens: int = 256, rewind_tokens: int = 64, n_draft: int = 0,
                 progress: Optional[Callable[[int, int], Any]] = None):
        self._handle = ctypes.c_void_p()
        self._sessions: Set[int] = set()  # handles of open sessions, which must be freed before the model
        options = native.ModelOptions()
        lib.dsv4_model_options_default(ctypes.byref(options))
        options.numerics = native.number_of(native.NUMERICS, numerics, "numerics")
        options.cpu_level = native.number_of(native.CPU_LEVELS, cpu_level, "cpu_level")
        for name, value, n_bits in (("n_threads", n_threads, 32), ("n_sessions", n_sessions, 32),
                                    ("n_tokens", n_tokens, 64), ("step_tokens", step_tokens, 64),
                                    ("rewind_tokens", rewind_tokens, 64), ("n_draft", n_draft, 32)):
            setattr(options, name, native.integer(value, name, n_bits))
        if progress is not None:
            def report(_, n_done, n_total):
                progress(n_done, n_total)

            options.progress = native.OpenProgress(report)
        native.call("dsv4_model_open", os.fsencode(path), ctypes.byref(options), ctypes.byref(self._handle))
        self.n_vocab: int = lib.dsv4_model_n_vocab(self._handle)
        self.max_tokens: int = lib.dsv4_model_max_tokens(self._handle)
        self.bos: int = lib.dsv4_model_bos(self._handle)
        self.eos: int = lib.dsv4_model_eos(self._handle)

    def close(self) -> None:
        """Frees the model and its sessions; further calls do nothing."""
        while self._sessions:
            lib.dsv4_session_free(self._sessions.pop())
        handle, self._handle = self._handle, ctypes.c_void_p()
        lib.dsv4_model_close(handle)

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()

    def _open_handle(self):
        if not self._handle:
            raise InvalidArgument("model: closed, expected an open one")
        return self._handle

    @property
    def cache_bytes(self) -> int:
        """Bytes reserved for caches."""
        return lib.dsv4_model_cache_bytes(self._open_handle())

    @property
    def cache_used_bytes(self) -> int:
        """Bytes that sessions hold now; what forks share counts once."""
        return lib.dsv4_model_cache_used_bytes(self._open_handle())

    def draft_counts(self) -> tuple:
        """(drafted, kept) tokens since the model was opened."""
        drafted, kept = ctypes.c_int64(), ctypes.c_int64()
        lib.dsv4_model_draft_counts(self._open_handle(), ctypes.byref(drafted), ctypes.byref(kept))
        return drafted.value, kept.value

    # ---- text ----

    def tokenize(self, text: str, *, special: bool = False) -> List[int]:
        """Token ids; nothing is added at the ends. special: special tokens written in the text become their ids."""
        if not isinstance(text, str):
            raise InvalidArgument(f"text: a {type(text).__name__}, expected a str")
        data = text.encode()
        n_ids = ctypes.c_size_t()
        args = (self._open_handle(), data, len(data), int(special))
        native.call("dsv4_model_tokenize", *args, None, 0, ctypes.byref(n_ids))
        ids = (ctypes.c_int32 * n_ids.value)()
        native.call("dsv4_model_tokenize", *args, ids, n_ids.value, ctypes.byref(n_ids))
        return list(ids)

    def token_bytes(self, token: int) -> bytes:
        """Bytes of one token; may be part of a character, and empty for an id without text."""
        n_bytes = ctypes.c_size_t()
        address = lib.dsv4_model_token_bytes(self._open_handle(), native.integer(token, "token"),
                                             ctypes.byref(n_bytes))
        return ctypes.string_at(address, n_bytes.value) if address else b""

    def is_special(self, token: int) -> bool:
        """Whether the id is a special token such as the end of a turn."""
        return bool(lib.dsv4_model_token_is_special(self._open_handle(), native.integer(token, "token")))

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of tokens; broken characters become U+FFFD."""
        return b"".join(map(self.token_bytes, _id_list("tokens", tokens))).decode(errors="replace")

    def chat_prompt(self, messages: Any, *, thinking: bool = False) -> str:
        """The prompt text of a chat in the shape of the OpenAI chat API: a list of messages, or a dict with messages
        and tools. Tokenize it with special=True."""
        data = json.dumps(messages).encode()
        text, n_bytes = ctypes.c_void_p(), ctypes.c_size_t()
        native.call("dsv4_chat_prompt", data, len(data), int(thinking), ctypes.byref(text), ctypes.byref(n_bytes))
        try:
            return ctypes.string_at(text, n_bytes.value).decode()
        finally:
            lib.dsv4_text_free(text)

    # ---- running ----

    def session(self) -> "Session":
        """An empty sequence of tokens with its cached state."""
        handle = ctypes.c_void_p()
        native.call("dsv4_session_create", self._open_handle(), ctypes.byref(handle))
        return Session(self, handle.value or 0)

    def forward(self, sessions: Sequence["Session"], tokens: Sequence[Sequence[int]],
                n_logits: Union[int, Sequence[int]] = 1) -> list:
        """Appends tokens[i] to sessions[i] and runs them all in one call.

        Returns, for each session, logits [n_logits, n_vocab] f32 of its last n_logits new tokens: a numpy array, or
        without numpy a memoryview of that shape; None where n_logits is 0.
        """
        try:
            counts = list(n_logits)
        except TypeError:  # one number for all, maybe numpy's
            counts = [n_logits] * len(sessions)
        if not len(sessions) == len(tokens) == len(counts):
            raise InvalidArgument(f"tokens: {len(tokens)} lists and n_logits: {len(counts)} counts, expected one for "
                                  f"each of {len(sessions)} sessions")
        entries = (native.ForwardEntry * len(sessions))()
        results, buffers = [], []
        for i, (entry, session, ids, count) in enumerate(zip(entries, sessions, tokens, counts)):
            array, count = _int32_array(ids), native.integer(count, f"n_logits[{i}]", 64)
            if not 0 <= count <= len(array):
                raise InvalidArgument(f"n_logits[{i}]: {count}, expected 0 .. {len(array)}, the new tokens")
            logits = (ctypes.c_float * (count * self.n_vocab))() if count else None
            buffers.append((array, logits))
            entry.session, entry.n_tokens, entry.n_logits = session._open_handle(), len(array), count
            entry.tokens = ctypes.addressof(array)
            entry.logits = ctypes.addressof(logits) if count else None
            results.append(None if logits is None else _logits_array(logits, count, self.n_vocab))
        native.call("dsv4_model_forward", self._open_handle(), entries, len(entries))
        return results

    def generate(self, prompt: Prompt, max_new: int = 128, *, temperature: float = 0.0, top_p: float = 1.0,
                 min_p: float = 0.0, top_k: int = 0, seed: int = 0) -> str:
        """Text after a prompt, greedy by default. A text prompt is tokenized behind the begin-of-sentence token;
        a list of ids is taken as it is."""
        with self.session() as session:
            session.generate(self._prompt_ids(prompt), max_new, temperature=temperature, top_p=top_p, min_p=min_p,
                             top_k=top_k, seed=seed)
            return self.detokenize(session.new_tokens)

    def stream(self, prompt: Prompt, max_new: int = 128, *, temperature: float = 0.0, top_p: float = 1.0,
               min_p: float = 0.0, top_k: int = 0, seed: int = 0) -> Iterator[str]:
        """Yields the text of generate() piece by piece, as tokens come; it drafts nothing, so n_draft makes only
        generate() faster."""
        decoder = _Decoder()
        with self.session() as session:
            for token in session.stream(self._prompt_ids(prompt), max_new, temperature=temperature, top_p=top_p,
                                        min_p=min_p, top_k=top_k, seed=seed):
                piece = decoder.push(self.token_bytes(token))
                if piece:
                    yield piece
        rest = decoder.push(b"", is_last=True)
        if rest:
            yield rest

    def _prompt_ids(self, prompt):
        if isinstance(prompt, str):
            return [self.bos] + self.tokenize(prompt)
        return _id_list("prompt", prompt)


def _logits_array(buffer, n_rows, n_vocab):
    try:
        import numpy
    except ImportError:
        return memoryview(buffer).cast("B").cast("f", (n_rows, n_vocab))
    return numpy.frombuffer(buffer, dtype=numpy.float32).reshape(n_rows, n_vocab)


class Session:
    """One sequence of tokens with its cached state; made by Model.session() and Session.fork()."""

    def __init__(self, model: Model, handle: int):
        self.model, self._handle = model, handle
        self.new_tokens: List[int] = []
        model._sessions.add(handle)

    def close(self) -> None:
        """Gives back what the session holds; forks of it are not touched. A session that is no longer referred to does
        the same."""
        handle, self._handle = self._handle, 0
        if handle in self.model._sessions:
            self.model._sessions.remove(handle)
            lib.dsv4_session_free(handle)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __len__(self) -> int:
        return lib.dsv4_session_n_tokens(self._open_handle())

    def _open_handle(self):
        if self._handle not in self.model._sessions:
            raise InvalidArgument("session: closed, expected an open one")
        return self._handle

    @property
    def tokens(self) -> List[int]:
        """All tokens of the session."""
        n_tokens = len(self)
        address = lib.dsv4_session_tokens(self._handle)
        return list((ctypes.c_int32 * n_tokens).from_address(address)) if n_tokens else []

    def fork(self) -> "Session":
        """A second session with the same past; cached state is shared until one of them writes."""
        handle = ctypes.c_void_p()
        native.call("dsv4_session_fork", self._open_handle(), ctypes.byref(handle))
        return Session(self.model, handle.value or 0)

    def rewind(self, n_tokens: int) -> None:
        """Forgets tokens from n_tokens on."""
        native.call("dsv4_session_rewind", self._open_handle(), native.integer(n_tokens, "n_tokens", 64))

    def forward(self, tokens: Sequence[int], n_logits: int = 1) -> Any:
        """Appends tokens and runs them; logits [n_logits, n_vocab] as Model.forward gives them."""
        return self.model.forward([self], [tokens], n_logits)[0]

    def generate(self, prompt: Sequence[int], max_new: int = 128, *, temperature: float = 0.0, top_p: float = 1.0,
                 min_p: float = 0.0, top_k: int = 0, seed: int = 0,
                 on_token: Optional[Callable[[int, bytes], Any]] = None) -> List[int]:
        """Appends prompt ids, then samples until max_new tokens, the end-of-sentence token, or until
        on_token(id, bytes) returns something true. Returns the new ids, which are also in new_tokens.

        An exception of on_token stops the generation and is raised here; the session keeps what it has.
        """
        settings = _sampling(temperature, top_p, min_p, top_k, seed)
        new, n_new, failures = [], ctypes.c_int64(), []

        def report(_, token, address, n_bytes):
            new.append(token)
            if on_token is None:
                return 0
            try:
                return int(bool(on_token(token, ctypes.string_at(address, n_bytes) if address else b"")))
            except BaseException as error:  # it must not unwind through C
                failures.append(error)
                return 1

        ids = _int32_array(_id_list("prompt", prompt))
        self.new_tokens = new
        native.call("dsv4_session_generate", self._open_handle(), ids, len(ids), ctypes.byref(settings),
                    native.integer(max_new, "max_new", 64), native.OnToken(report), None, ctypes.byref(n_new))
        if failures:
            raise failures[0]
        return new

    def stream(self, prompt: Sequence[int], max_new: int = 128, *, temperature: float = 0.0, top_p: float = 1.0,
               min_p: float = 0.0, top_k: int = 0, seed: int = 0) -> Iterator[int]:
        """Yields the new token ids of generate() as they come, without drafts."""
        settings = _sampling(temperature, top_p, min_p, top_k, seed)
        self._open_handle()
        _check_sampling(settings)
        if native.integer(max_new, "max_new", 64) < 0:
            raise InvalidArgument(f"max_new: {max_new}, expected 0 or more")
        self.new_tokens = new = []
        return self._stream(_id_list("prompt", prompt), max_new, settings, new)

    def _stream(self, ids, max_new, settings, new):
        n_vocab, state = self.model.n_vocab, ctypes.c_uint64(settings.seed)
        logits, scratch = (ctypes.c_float * n_vocab)(), (ctypes.c_uint64 * n_vocab)()
        while True:
            array = _int32_array(ids)
            is_last = len(new) == max_new
            entry = native.ForwardEntry(self._open_handle(), ctypes.addressof(array), len(array), not is_last,
                                        None if is_last else ctypes.addressof(logits))
            native.call("dsv4_model_forward", self.model._open_handle(), ctypes.byref(entry), 1)
            if is_last:
                return
            token = lib.dsv4_sample(ctypes.byref(settings), logits, n_vocab, ctypes.byref(state), scratch)
            if token < 0:
                raise BadFile(f"logits: all NaN after {len(self)} tokens")
            if token == self.model.eos:
                return
            new.append(token)
            ids = [token]
            yield token
