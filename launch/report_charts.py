"""Charts as inline SVG for launch/report.py. Colours are the page's CSS variables, so that they follow light and dark.

Every chart is drawn 480 units wide and fills a phone's width or half a desktop's; report.css sets text of 13, on phones
17, which the margins have room for.
"""

import html
import math
import statistics

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 480, 66, 14, 12, 44
CUT = 1.5  # relative losses above are cut off
LETTER = 9.8  # room for a letter on a phone, where text is largest


def nice_step(span, ticks):
    raw = span / max(1, ticks)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)


def short(value):
    """As short as it goes: 0.0123, 1.5e-5, 12000, 2e6."""
    if 1e-4 <= abs(value) < 1e5 or value == 0:
        return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"
    digits, power = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"


def fit(name, letters=21):
    """A layer's name at most so long: without its first modules, then without its first letters. Titles have it whole."""
    short_name = name
    while len(short_name) > letters and "." in short_name:
        short_name = short_name.partition(".")[2]
    short_name = short_name.removeprefix("*.")
    return short_name if len(short_name) <= letters else "…" + short_name[1 - letters:]


def room_for(names):
    """The width that names at the left take, with their margin."""
    return 16 + LETTER * max(map(len, names))


class Axis:
    """Maps [low, high] to pixels [start, end]; a logarithmic one needs low > 0."""

    def __init__(self, low, high, start, end, log=False, whole=False):
        self.log, self.whole, self.start, self.end = log, whole, start, end
        if log:
            low, high = math.log10(low), math.log10(high)
        if high - low < 1e-9 * max(1.0, abs(high)):
            low, high = low - 0.5, high + 0.5
        self.low, self.high = low, high

    def __call__(self, value):
        value = math.log10(value) if self.log else value
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, wanted=5):
        if self.log:
            found = [m * 10.0 ** e for e in range(math.floor(self.low), math.ceil(self.high) + 1) for m in (1, 2, 5)]
            inside = [t for t in found if self.low - 1e-9 <= math.log10(t) <= self.high + 1e-9]
            tens = [t for t in inside if math.log10(t) == round(math.log10(t))]
            if len(tens) >= 3:
                return tens[::math.ceil(len(tens) / 7)]
            return inside if len(inside) >= 2 else [10 ** self.low, 10 ** self.high]
        step = nice_step(self.high - self.low, wanted)
        step = max(1, round(step)) if self.whole else step
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def axis_of(values, start, end):
    """From 0, or logarithmic where the values, all above 0, lie far apart."""
    low, high = min(values), max(values)
    if high < 12 * low:
        return Axis(0, high * 1.05, start, end)
    return Axis(low * 0.9, high * 1.1, start, end, log=True)


def text(x, y, words, anchor="middle", kind=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{html.escape(words)}</text>'


def line(x1, y1, x2, y2, kind):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def box(x, y, width, height, kind, title="", opacity=None):
    shade = "" if opacity is None else f' fill-opacity="{opacity:.2f}"'
    inner = f"<title>{html.escape(title)}</title>" if title else ""
    return (f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.1f}" class="{kind}"{shade}>'
            f"{inner}</rect>")


def dot(x, y, kind, title=""):
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" class="{kind}"><title>{html.escape(title)}</title></circle>'


def svg(height, parts, label):
    return (f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{html.escape(label, quote=True)}">'
            + "".join(parts) + "</svg>")


def frame(x, y, height, x_name):
    """Grid lines and ticks of both axes."""
    parts = [line(LEFT, y(t), WIDTH - RIGHT, y(t), "grid") + text(LEFT - 6, y(t) + 4, short(t), "end", "tick")
             for t in y.ticks()]
    parts += [text(x(t), height - BOTTOM + 18, short(t), kind="tick") for t in x.ticks(8)]
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, height - 5, x_name, kind="name"))
    return parts


def pairs_by_number(points, x_name, label):
    """points: (number, before, after), all finite and above 0."""
    height = 280
    values = [v for _, a, b in points for v in (a, b)]
    x = Axis(points[0][0], points[-1][0], LEFT + 8, WIDTH - RIGHT - 8, whole=True)
    y = axis_of(values, height - BOTTOM, TOP)
    parts = frame(x, y, height, x_name)
    for place, before, after in points:
        title = f"{x_name} {place}: {short(before)} -> {short(after)}"
        parts.append(line(x(place), y(before), x(place), y(after), "stem"))
        parts.append(dot(x(place), y(before), "before", title) + dot(x(place), y(after), "after", title))
    return svg(height, parts, label)


def path(x, y, values, kind, title):
    points = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in values)
    return f'<polyline points="{points}" class="{kind}"><title>{html.escape(title)}</title></polyline>'


def thin(values, most=150):
    """At most `most` points, each the mean of its neighbours: what the width of a chart can show."""
    width = max(1, math.ceil(len(values) / most))
    pieces = [values[i:i + width] for i in range(0, len(values), width)]
    return [(i * width + (len(p) - 1) / 2, statistics.fmean(p)) for i, p in enumerate(pieces)]


def curves(series, label):
    """series: {block: relative losses}; thin lines and, thick, the median of all at each iteration."""
    height = 280
    longest = max(len(v) for v in series.values())
    thinned = {block: thin(values) for block, values in series.items()}
    flat = [v for points in thinned.values() for _, v in points]
    x = Axis(0, max(1, longest - 1), LEFT, WIDTH - RIGHT)
    y = Axis(min(0.0, min(flat)), max(1.0, min(max(flat), CUT)), height - BOTTOM, TOP)
    parts = frame(x, y, height, "iteration")
    parts.append(f'<clipPath id="plot"><rect x="{LEFT}" y="{TOP - 4}" width="{WIDTH}" height="{height - BOTTOM - TOP + 8}"/>'
                 '</clipPath><g clip-path="url(#plot)">')
    parts += [path(x, y, points, "curve", f"block {block}") for block, points in thinned.items()]
    middle = thin([statistics.median(v[i] for v in series.values() if len(v) > i) for i in range(longest)])
    parts.append(path(x, y, middle, "median", "median of the blocks") + "</g>")
    return svg(height, parts, label)


def bars(rows, label):
    """rows: (name, value, words, class)."""
    row, widest = 30, max((v for _, v, _, _ in rows), default=0) or 1
    names = [fit(n, 16) for n, *_ in rows]
    left = room_for(names)
    room = max(60, WIDTH - left - 8 - LETTER * max(len(words) for _, _, words, _ in rows))
    parts = []
    for i, (name, value, words, kind) in enumerate(rows):
        y = i * row
        parts.append(text(left - 8, y + 20, names[i], "end", "name"))
        parts.append(box(left, y + 5, value / widest * room, row - 10, kind, f"{name}: {words}"))
        parts.append(text(left + value / widest * room + 6, y + 20, words, "start", "tick"))
    return svg(len(rows) * row + 4, parts, label)


def columns(values, words, x_name, label):
    """values: one number each rank."""
    height = 200
    x = Axis(-0.5, len(values) - 0.5, LEFT, WIDTH - RIGHT, whole=True)
    y = Axis(0, max(values) * 1.05 or 1, height - BOTTOM, TOP)
    width = min(60, 0.8 * (WIDTH - RIGHT - LEFT) / len(values))
    parts = frame(x, y, height, x_name)
    for i, value in enumerate(values):
        parts.append(box(x(i) - width / 2, y(value), width, height - BOTTOM - y(value), "bar",
                         f"{x_name} {i}: {words(value)}"))
    return svg(height, parts, label)


def pairs_by_name(rows, label):
    """rows: (name, before, after), above 0."""
    row, left = 30, room_for([fit(n) for n, _, _ in rows])
    values = [v for _, a, b in rows for v in (a, b)]
    height = len(rows) * row + BOTTOM
    x = axis_of(values, left, WIDTH - RIGHT - 8)
    parts = []
    for t in x.ticks():
        parts.append(line(x(t), 4, x(t), height - BOTTOM, "grid") + text(x(t), height - BOTTOM + 18, short(t), kind="tick"))
    for i, (name, before, after) in enumerate(rows):
        y = i * row + 18
        title = f"{name}: {short(before)} -> {short(after)}"
        parts.append(text(left - 8, y + 4, fit(name), "end", "name") + line(x(before), y, x(after), y, "stem"))
        parts.append(dot(x(before), y, "before", title) + dot(x(after), y, "after", title))
    return svg(height, parts, label)


def heat(cells, names, blocks, label):
    """cells: {(name, block): (value in [0, 1], title)}: the darker, the larger."""
    row, left = 22, room_for([fit(n) for n in names])
    x = Axis(min(blocks) - 0.5, max(blocks) + 0.5, left, WIDTH - RIGHT, whole=True)
    width = (WIDTH - RIGHT - left) / (max(blocks) - min(blocks) + 1)
    height = len(names) * row + BOTTOM
    parts = [text(left - 8, i * row + 16, fit(name), "end", "name") for i, name in enumerate(names)]
    for (name, block), (value, title) in cells.items():
        parts.append(box(x(block) - width / 2, names.index(name) * row, width * 0.94, row - 2, "cell", title,
                         0.06 + 0.94 * value))
    parts += [text(x(t), height - BOTTOM + 18, short(t), kind="tick") for t in x.ticks(8)]
    parts.append(text((left + WIDTH - RIGHT) / 2, height - 5, "block", kind="name"))
    return svg(height, parts, label)
