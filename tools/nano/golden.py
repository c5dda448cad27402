#!/usr/bin/env python3
"""Answers of transformers, in float32 on the dequantized checkpoint, for tests/fixtures/nano.

Text is that of heldout.txt as evaluate.py reads it: each line behind a space, line ends dropped;
every window of it begins with the begin-of-sentence token.
  golden.safetensors   tokens I32 [T], logits F32 [T][vocab]: for `dsv4 eval`
  mtp.safetensors      tokens I32 [T], mtp_logits F32 [T - 1][vocab]: for `dsv4 eval --mtp`
  text.safetensors     tokens I32 [n][1024], losses F32 [n][1023]: -ln p of each next token, in nats

usage: golden.py MODEL_DIR HELD_OUT_TEXT OUT
"""
import argparse

import torch
from safetensors.torch import save_file

from evaluate import Evaluation

N_GOLDEN, N_MTP, N_WINDOWS, WINDOW_TOKENS = 288, 96, 4, 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("held_out")
    parser.add_argument("out")
    args = parser.parse_args()
    e = Evaluation(args.model, args.held_out, "cpu")
    windows = torch.tensor(list(e.windows(N_WINDOWS, WINDOW_TOKENS)))
    with torch.no_grad():
        logits = e.forward(windows[:1, :N_GOLDEN])[0][0]
        mtp_logits = e.forward(windows[:1, :N_MTP])[1][0]
        losses = torch.cat([
            -e.main(window[None], use_cache=False).logits[:, :-1].log_softmax(-1)
            .gather(-1, window[None, 1:, None])[..., 0] for window in windows])
    tokens = windows.to(torch.int32)
    save_file({"tokens": tokens[0, :N_GOLDEN].contiguous(), "logits": logits.contiguous()},
              f"{args.out}/golden.safetensors")
    save_file({"tokens": tokens[0, :N_MTP].contiguous(), "mtp_logits": mtp_logits.contiguous()},
              f"{args.out}/mtp.safetensors")
    save_file({"tokens": tokens, "losses": losses.contiguous()}, f"{args.out}/text.safetensors")
    print(f"perplexity {losses.mean().exp().item():.4f} of {losses.numel()} tokens")


if __name__ == "__main__":
    main()
