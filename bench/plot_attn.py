#!/usr/bin/env python3
"""Draws what bench/attn_gpu.py measured: time and fraction of the floor by batch, a column for each number of heads.

usage: bench/plot_attn.py RESULTS.jsonl OUT.svg [--keys 128+512] [--queries 1]
"""
import argparse
import json
import math

WIDTH, HEIGHT, LEFT, TOP, GAP = 190, 170, 52, 66, 22
SERIES = (("cold_us", "this library", "#0b6e99"), ("peer_cold_us", "FlashMLA", "#c0392b"), ("floor_us", "floor", "#7f8c8d"))


class Panel:
    """A plot area with a logarithmic x axis of batches and a y axis that is logarithmic or not."""

    def __init__(self, column, row, batches, low, high, is_log):
        self.x0, self.y0 = LEFT + column * (WIDTH + GAP), TOP + row * (HEIGHT + 46)
        self.batches, self.low, self.high, self.is_log = batches, low, high, is_log

    def x(self, batch):
        span = math.log2(self.batches[-1]) - math.log2(self.batches[0])
        return self.x0 + 8 + (WIDTH - 16) * (math.log2(batch) - math.log2(self.batches[0])) / span

    def y(self, value):
        f = math.log10 if self.is_log else float
        return self.y0 + HEIGHT * (1 - (f(value) - f(self.low)) / (f(self.high) - f(self.low)))

    def frame(self, ticks, title, has_labels):
        out = [f'<rect x="{self.x0}" y="{self.y0}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>']
        if title:
            out.append(f'<text x="{self.x0 + WIDTH / 2}" y="{self.y0 - 8}" text-anchor="middle" font-weight="bold">{title}</text>')
        for tick in ticks:
            out.append(f'<line x1="{self.x0}" x2="{self.x0 + WIDTH}" y1="{self.y(tick):.1f}" y2="{self.y(tick):.1f}" stroke="#e5e5e5"/>')
            if has_labels:
                out.append(f'<text x="{self.x0 - 5}" y="{self.y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
        for batch in self.batches:
            out.append(f'<text x="{self.x(batch):.1f}" y="{self.y0 + HEIGHT + 13}" text-anchor="middle" font-size="9">{batch}</text>')
        return out

    def line(self, points, colour):
        path = " ".join(f"{self.x(b):.1f},{self.y(min(max(v, self.low), self.high)):.1f}" for b, v in points)
        dots = [f'<circle cx="{self.x(b):.1f}" cy="{self.y(min(max(v, self.low), self.high)):.1f}" r="2.2" fill="{colour}"/>' for b, v in points]
        return [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>'] + dots


def draw(rows, keys, queries):
    rows = [r for r in rows if r["keys"] == keys and r["queries"] == queries]
    heads, batches = sorted({r["heads"] for r in rows}), sorted({r["requests"] for r in rows})
    width, height = LEFT + len(heads) * (WIDTH + GAP), TOP + 2 * (HEIGHT + 46)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
           f'<rect width="{width}" height="{height}" fill="white"/>',
           f'<text x="{LEFT}" y="18" font-size="13">Decode attention on an H200, {keys} keys: cold microseconds (above) and floor / time (below) by requests</text>']
    for i, (_, name, colour) in enumerate(SERIES):
        out.append(f'<text x="{width - 300 + 100 * i}" y="36" fill="{colour}">{name}</text>')
    for column, n in enumerate(heads):
        mine = sorted((r for r in rows if r["heads"] == n), key=lambda r: r["requests"])
        times = Panel(column, 0, batches, 1, 1000, True)
        shares = Panel(column, 1, batches, 0, 1, False)
        out += times.frame((1, 3, 10, 30, 100, 300, 1000), f"{n} heads", column == 0)
        out += shares.frame((0, 0.2, 0.4, 0.6, 0.8, 1), None, column == 0)
        for field, _, colour in SERIES:
            points = [(r["requests"], r[field]) for r in mine if r.get(field)]
            if not points:
                continue
            out += times.line(points, colour)
            if field != "floor_us":
                out += shares.line([(r["requests"], r["floor_us"] / r[field]) for r in mine], colour)
    return "\n".join(out + ["</svg>"]) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("results")
    parser.add_argument("out")
    parser.add_argument("--keys", default="128+512")
    parser.add_argument("--queries", type=int, default=1)
    args = parser.parse_args()
    with open(args.results, encoding="utf-8") as f:
        rows = [json.loads(line) for line in f][1:]
    with open(args.out, "w", encoding="utf-8") as f:
        f.write(draw(rows, args.keys, args.queries))


if __name__ == "__main__":
    main()
