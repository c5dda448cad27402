"""dsv4.Model on the small model in models/nano."""
import os
import unittest
import unittest.mock

import numpy

import attn_cases
import dsv4
from dsv4 import native

NANO = os.path.join(attn_cases.ROOT, "models", "nano")
PROMPT = "What is 2+2? Answer:"


class Engine(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.steps = []
        cls.model = dsv4.Model(NANO, n_threads=2, n_draft=1, progress=lambda *step: cls.steps.append(step))

    @classmethod
    def tearDownClass(cls):
        cls.model.close()

    def test_text(self):
        model = self.model
        self.assertEqual(model.generate(PROMPT, max_new=8).strip(), "4")
        self.assertEqual(self.steps[-1], (1, 1))
        ids = model.tokenize("Ärger über 語")
        self.assertEqual(model.detokenize(ids), "Ärger über 語")
        self.assertEqual(b"".join(map(model.token_bytes, ids)).decode(), "Ärger über 語")
        self.assertTrue(model.is_special(model.bos) and not model.is_special(ids[0]))
        self.assertEqual(model.token_bytes(-1), b"")
        self.assertGreater(model.max_tokens, 1000)

    def test_streaming_gives_the_text_of_generate(self):
        for settings in ({}, {"temperature": 0.9, "seed": 5}, {"temperature": 0.7, "top_p": 0.9, "top_k": 40}):
            want = self.model.generate("The capital of", max_new=30, **settings)
            self.assertEqual("".join(self.model.stream("The capital of", max_new=30, **settings)), want)
            self.assertGreater(len(want), 20)
        self.assertGreater(self.model.draft_counts()[0], 0)

    def test_a_stream_that_ends_inside_a_character(self):
        model, whole = self.model, self.model.tokenize("語")
        self.assertGreater(len(whole), 1)
        with unittest.mock.patch.object(dsv4.Session, "stream", lambda *_, **__: iter(whole)):
            self.assertEqual(list(model.stream("x")), ["語"])
        with unittest.mock.patch.object(dsv4.Session, "stream", lambda *_, **__: iter(whole[:1])):
            self.assertEqual(list(model.stream("x")), ["\ufffd"])

    def test_a_stream_may_be_left(self):
        stream = self.model.stream("The capital of", max_new=1000)
        first = next(stream)
        stream.close()
        self.assertTrue(first)
        self.assertEqual(self.model.cache_used_bytes, 0)

    def test_sessions(self):
        model, ids = self.model, [self.model.bos] + self.model.tokenize(PROMPT)
        with model.session() as session:
            logits = session.forward(ids, 2)
            self.assertEqual((logits.shape, logits.dtype), ((2, model.n_vocab), numpy.float32))
            self.assertEqual((len(session), session.tokens), (len(ids), ids))
            with session.fork() as fork:
                together = model.forward([session, fork], [[5], [6]])
                fork.rewind(len(ids))
                numpy.testing.assert_array_equal(fork.forward([5]), together[0])
            session.rewind(len(ids) - 1)
            numpy.testing.assert_array_equal(session.forward(ids[-1:]), logits[1:])
            self.assertEqual(model.forward([session], [[5]], 0), [None])
            self.assertEqual(session.forward(numpy.array([5, 6]), numpy.int64(1)).shape, (1, model.n_vocab))
            self.assertEqual(session.forward([5], numpy.array([1])).shape, (1, model.n_vocab))

    def test_sessions_that_nothing_refers_to_are_given_back(self):
        with dsv4.Model(NANO, n_sessions=2) as model:
            for _ in range(5):
                model.session().forward([model.bos])
            self.assertEqual(model.cache_used_bytes, 0)
            held = [model.session(), model.session()]
            with self.assertRaisesRegex(dsv4.InvalidArgument, "n_sessions"):
                model.session()
            held[0].close()
            held[0] = model.session()

    def test_a_session_generates_as_it_streams(self):
        ids = [self.model.bos] + self.model.tokenize("The capital of")
        with self.model.session() as one, self.model.session() as two:
            self.assertEqual(one.generate(ids, 9), list(two.stream(ids, 9)))
            self.assertEqual(one.tokens, two.tokens)
            self.assertEqual(two.new_tokens, two.tokens[len(ids):])

    def test_on_token(self):
        ids = [self.model.bos] + self.model.tokenize("The capital of")
        with self.model.session() as session:
            seen = []
            new = session.generate(ids, 50, on_token=lambda *token: seen.append(token) or len(seen) == 3)
            self.assertEqual([token for token, _ in seen], new)
            self.assertEqual(len(new), 3)
            self.assertEqual(seen[0][1], self.model.token_bytes(new[0]))

            def fail(*_):
                raise KeyError("mine")

            with self.assertRaisesRegex(KeyError, "mine"):
                session.generate([5], 50, on_token=fail)

    def test_chat(self):
        prompt = self.model.chat_prompt([{"role": "user", "content": "What is 2+2?"}])
        self.assertIn("What is 2+2?", prompt)
        ids = self.model.tokenize(prompt, special=True)
        self.assertEqual(ids[0], self.model.bos)
        with self.assertRaises(dsv4.BadFile):
            self.model.chat_prompt({"messages": 5})

    def test_refusals(self):
        model = self.model
        with self.assertRaisesRegex(dsv4.FileError, "^/nowhere/config.json: cannot open"):
            dsv4.Model("/nowhere")
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^numerics: 'fast', expected one of official, exact"):
            dsv4.Model(NANO, numerics="fast")
        with self.assertRaisesRegex(dsv4.InvalidArgument, "n_sessions"):
            dsv4.Model(NANO, n_sessions=-1)
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^n_threads: 4294967297, expected an integer of 32 bits"):
            dsv4.Model(NANO, n_threads=(1 << 32) + 1)
        with model.session() as session:
            with self.assertRaisesRegex(dsv4.InvalidArgument, str(model.n_vocab)):
                session.forward([model.n_vocab])
            with self.assertRaisesRegex(dsv4.InvalidArgument, r"^tokens\[1\]: 'a', expected an integer"):
                session.forward([5, "a"])
            with self.assertRaisesRegex(dsv4.InvalidArgument, r"^n_logits\[0\]: 2, expected 0 .. 1"):
                session.forward([5], 2)
            for wrong in (1.0, [1.0], None):
                with self.assertRaisesRegex(dsv4.InvalidArgument, r"^n_logits\[0\]: (1.0|None), expected an integer"):
                    session.forward([5], wrong)
            for call in (session.generate, session.stream, model.generate, lambda ids: list(model.stream(ids))):
                with self.assertRaisesRegex(dsv4.InvalidArgument, "^prompt: a int, expected a list of token ids"):
                    call(5)
            for call in (session.forward, model.detokenize):
                with self.assertRaisesRegex(dsv4.InvalidArgument, "^tokens: a int, expected a list of token ids"):
                    call(5)
            with self.assertRaisesRegex(dsv4.InvalidArgument, "^prompt: a str, expected a list of token ids"):
                session.generate("Hello")
            with self.assertRaisesRegex(dsv4.InvalidArgument, "^text: a int, expected a str"):
                model.tokenize(5)
            with self.assertRaisesRegex(dsv4.InvalidArgument, "top_p: 1.5, expected 0 .. 1"):
                session.stream([5], top_p=1.5)
            with self.assertRaisesRegex(dsv4.InvalidArgument, "top_p: 1.5, expected 0 .. 1"):
                session.generate([5], top_p=1.5)
            for name, value in (("seed", -1), ("top_k", 1 << 31), ("temperature", "hot"), ("max_new", 1.5)):
                with self.assertRaisesRegex(dsv4.InvalidArgument, f"^{name}: "):
                    session.generate([5], **{name: value})
                with self.assertRaisesRegex(dsv4.InvalidArgument, f"^{name}: "):
                    session.stream([5], **{name: value})
            with self.assertRaisesRegex(dsv4.InvalidArgument, "rewind|n_tokens"):
                session.rewind(1000)
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^session: closed"):
            session.forward([5])
        other = dsv4.Model(NANO)
        kept = other.session()
        with unittest.mock.patch.object(native.lib, "dsv4_session_free", wraps=native.lib.dsv4_session_free) as free:
            other.close()
            other.close()
        self.assertEqual(free.call_count, 1, "sessions are freed with their model")
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^session: closed"):
            len(kept)
        kept.close()
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^model: closed"):
            other.generate("x")


if __name__ == "__main__":
    unittest.main()
