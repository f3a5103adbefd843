#!/usr/bin/env python3
"""Folds the output of `perf script` and draws it as a flame graph: one SVG that needs no other file.

    perf script --no-inline | scripts/flamegraph.py --title "worker" > graph.svg
    perf script --no-inline | scripts/flamegraph.py --folded          one line a stack: outer;..;inner COUNT

A click on a frame makes it the whole width, one on the lowest frame goes back. A browser finds no text that is cut off,
so `/` asks for a word and colours the frames that have it. Exit code 1 where there is no sample.
"""

import argparse
import collections
import html
import re
import sys

WIDTH, ROW, MARGIN, CHARACTER = 1200, 17, 10, 6.6
# Narrower frames are not drawn: they could not be seen, and make most of the file.
PIXELS_MIN = 0.3

HEADER = re.compile(r"^\s*(?P<comm>\S.*?)\s+(?P<tid>\d+)(?:/\d+)?\s+(?:\[\d+\]\s+)?(?P<time>\d+\.\d+):\s+(?P<rest>.*)$")
FRAME = re.compile(r"^\s+[0-9a-f]+\s+(?P<symbol>.*?)\s+\((?P<object>.*)\)$")
HASH = re.compile(r"::h[0-9a-f]{16}$|\+0x[0-9a-f]+$")


def samples(lines):
    """Of each sample: thread's name and number, seconds, what perf says of it, frames from the outermost in."""
    head, frames = None, []
    for line in lines:
        line = line.rstrip("\n")
        if match := HEADER.match(line):
            if head:
                yield (*head, frames[::-1])
            head, frames = (match["comm"], int(match["tid"]), float(match["time"]), match["rest"]), []
        elif head and (match := FRAME.match(line)):
            frames.append(name(match["symbol"], match["object"]))
    if head:
        yield (*head, frames[::-1])


def name(symbol, of):
    """Without the hash and the offset; the kernel's marked; an address without a symbol by its file."""
    symbol = HASH.sub("", HASH.sub("", symbol))
    if symbol == "[unknown]":
        symbol = f"[{of.rsplit('/', 1)[-1].strip('[]')}]"
    kernel = of.startswith("[") and not of.startswith("[v") or of.endswith(".ko")
    return symbol.replace(";", ":") + ("_[k]" if kernel else "")


def fold(lines):
    """How often each stack was met, as a tuple from the outermost frame in, the thread's name first."""
    stacks = collections.Counter()
    for comm, _, _, _, frames in samples(lines):
        stacks[(comm, *frames)] += 1
    return stacks


def off_cpu(lines):
    """Microseconds that threads slept, by the stack they fell asleep with. What they ended before is not known."""
    stacks, asleep = collections.Counter(), {}
    for comm, tid, at, rest, frames in samples(lines):
        if "PERF_RECORD_SWITCH" not in rest:
            asleep[tid] = (at, (comm, *frames))
        elif " IN" in rest and tid in asleep:
            since, stack = asleep.pop(tid)
            stacks[stack] += round((at - since) * 1e6)
    return stacks


def shares(stacks):
    """Of each frame's name: the part of all that ended in it, and the part that had it anywhere."""
    total, own, within = sum(stacks.values()) or 1, collections.Counter(), collections.Counter()
    for stack, count in stacks.items():
        own[stack[-1]] += count
        for frame in set(stack[1:]) or {stack[-1]}:
            within[frame] += count
    return {frame: (own[frame] / total, count / total) for frame, count in within.items()}


class Node:
    def __init__(self):
        self.count, self.children = 0, {}


def tree(stacks):
    root = Node()
    for stack, count in stacks.items():
        node = root
        node.count += count
        for frame in stack:
            node = node.children.setdefault(frame, Node())
            node.count += count
    return root


def colour(frame):
    """The kernel's blue, ours by the name's hash in warm colours: the same name is the same colour in every graph."""
    number = sum((index + 1) * ord(letter) for index, letter in enumerate(frame[:40]))
    if frame.endswith("_[k]"):
        return f"rgb({70 + number % 50},{130 + number % 60},{200 + number % 40})"
    return f"rgb({215 + number % 40},{90 + number * 7 % 120},{number * 3 % 60})"


SCRIPT = """
var frames = document.querySelectorAll('g.f');
function fit(g, x, w) {
  var r = g.children[1], t = g.children[2];
  g.style.display = w < 0.3 ? 'none' : '';
  r.setAttribute('x', x); r.setAttribute('width', Math.max(w - 0.5, 0.1)); t.setAttribute('x', x + 3);
  var n = Math.floor((w - 6) / CHARACTER), s = g.dataset.n;
  t.textContent = n < 3 ? '' : s.length <= n ? s : s.slice(0, n - 2) + '..';
}
function zoom(to) {
  var a = +to.dataset.x, w = +to.dataset.w;
  frames.forEach(function (g) {
    var x = +g.dataset.x, v = +g.dataset.w, below = +g.dataset.d < +to.dataset.d;
    var inside = x >= a - 1e-9 && x + v <= a + w + 1e-9, around = below && x <= a + 1e-9 && x + v >= a + w - 1e-9;
    if (around) fit(g, MARGIN, SPAN);
    else fit(g, MARGIN + (x - a) / w * SPAN, inside && !below ? v / w * SPAN : 0);
  });
}
frames.forEach(function (g) { g.addEventListener('click', function () { zoom(g); }); });
document.addEventListener('keydown', function (e) {
  if (e.key !== '/') return;
  e.preventDefault();
  var word = prompt('Part of a name');
  frames.forEach(function (g) {
    g.children[1].setAttribute('fill', word && g.dataset.n.indexOf(word) >= 0 ? '#d040ff' : g.dataset.c);
  });
});
"""


def svg(stacks, title, unit="samples"):
    root, body, depth_max = tree(stacks), [], 0
    span = WIDTH - 2 * MARGIN
    # Not recursive: a stack may be deeper than Python's own.
    todo = [("all", root, 0.0, 0)]
    while todo:
        frame, node, left, depth = todo.pop()
        share = node.count / root.count if root.count else 0
        if share * span < PIXELS_MIN:
            continue
        depth_max = max(depth_max, depth)
        body.append((frame, node.count, left, share, depth))
        for child, below in sorted(node.children.items()):
            todo.append((child, below, left, depth + 1))
            left += below.count / root.count
    height = (depth_max + 1) * ROW + 56
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="monospace" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{MARGIN}" y="20" font-size="14">{html.escape(title)}</text>',
        f'<text x="{MARGIN}" y="36" fill="#666">{root.count:,} {unit}; click: zoom, on “all”: back, /: find</text>',
    ]
    for frame, count, left, share, depth in body:
        x, y, width = MARGIN + left * span, height - 8 - (depth + 1) * ROW, share * span
        fits = int((width - 6) / CHARACTER)
        shown = "" if fits < 3 else frame if len(frame) <= fits else frame[: fits - 2] + ".."
        escaped, paint = html.escape(frame, quote=True), colour(frame)
        lines.append(
            f'<g class="f" data-n="{escaped}" data-x="{left:.6f}" data-w="{share:.6f}" data-d="{depth}" '
            f'data-c="{paint}">'
            f"<title>{escaped}: {count:,} {unit}, {share:.2%}</title>"
            f'<rect x="{x:.1f}" y="{y}" width="{max(width - 0.5, 0.1):.1f}" height="{ROW - 1}" fill="{paint}"/>'
            f'<text x="{x + 3:.1f}" y="{y + 12}">{html.escape(shown)}</text></g>'
        )
    script = SCRIPT.replace("CHARACTER", str(CHARACTER)).replace("MARGIN", str(MARGIN)).replace("SPAN", str(span))
    return "\n".join([*lines, f"<script><![CDATA[{script}]]></script>", "</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--title", default="flame graph")
    parser.add_argument("--folded", action="store_true", help="lines instead of a picture")
    parser.add_argument("--off-cpu", action="store_true", help="of a record of context-switches with --switch-events")
    options = parser.parse_args()
    stacks = off_cpu(sys.stdin) if options.off_cpu else fold(sys.stdin)
    if not stacks:
        sys.exit("flamegraph.py: no sample in what was given; was it made by `perf script`?")
    if options.folded:
        for stack, count in sorted(stacks.items()):
            print(";".join(stack), count)
    else:
        print(svg(stacks, options.title, "µs" if options.off_cpu else "samples"), end="")


if __name__ == "__main__":
    main()
