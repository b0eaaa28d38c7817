"""launch/report.py: a page of what is there, whatever state the run directory is in."""

import contextlib
import html.parser
import io
import json
import pathlib
import random
import re
import shutil
import struct
import sys
import tempfile
import unittest
import unittest.mock
import xml.etree.ElementTree

import run_directory

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "launch"))
import report
import report_record

SECTIONS = ["Loss by block", "Loss curves", "Error by kind of layer", "Error of each layer, tuned", "Time line",
            "Time by phase", "Memory by rank", "Config"]
TAGS = set("html head meta title style body main header section div span strong small h1 h2 p i ul li details summary "
           "table thead tbody tr th td pre svg g line rect circle polyline text clippath".split())
ATTRIBUTES = set("lang charset name content http-equiv class viewbox role aria-label id clip-path x y x1 y1 x2 y2 cx cy r "
                 "width height points text-anchor fill-opacity".split())
JUNK = [None, -1, 10 ** 400, "</svg><script>", [[], "\ud800"], {"a": []}]


class Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.names, self.attributes, self.geometry = set(), set(), ""

    def handle_starttag(self, tag, attributes):
        self.names.add(tag)
        self.attributes |= {name for name, _ in attributes}
        self.geometry += " ".join(value for name, value in attributes if name in ("x", "y", "points", "width", "cx", "cy"))


class ReportCase(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="roundtable-test-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.run_dir = self.folder / "out.run"

    def call(self, *arguments):
        """(exit code, the page or None, stderr)"""
        out, err, argv = io.StringIO(), io.StringIO(), sys.argv
        sys.argv = ["report.py", str(self.run_dir), *arguments]
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = report.main()
        finally:
            sys.argv = argv
        path = self.run_dir / "report.html"
        return code, path.read_text() if code == 0 else None, err.getvalue()

    def page(self):
        """The page, checked for what holds of every one."""
        code, page, err = self.call()
        self.assertEqual((code, err), (0, ""))
        for chart in re.findall(r"<svg.*?</svg>", page, re.S):
            xml.etree.ElementTree.fromstring(chart)
        tags = Tags()
        tags.feed(page)
        self.assertLessEqual(tags.names, TAGS)
        self.assertLessEqual(tags.attributes, ATTRIBUTES)  # nothing that loads or runs anything
        self.assertNotIn("nan", tags.geometry)
        return page


class ReportTest(ReportCase):
    def test_a_finished_run_has_every_section(self):
        run_directory.make(self.run_dir)
        page = self.page()
        for section in SECTIONS:
            self.assertIn(f"<h2>{section}</h2>", page)
        self.assertNotIn("<h2>Warnings</h2>", page)
        for words in ("44.480 → 47.600", "+7.0 %", "<strong>0.0625</strong>", "percentile 0.5127, 89.3 %",
                      "269.1 MB → 114.0 MB", "30 of 30", "in 2 starts", "paused",
                      "mlp.down_proj", "a value that is rather long"):
            self.assertIn(words, page)

    def test_the_numbers_are_those_of_the_events(self):
        run_directory.make(self.run_dir, blocks=4, groups=1, iterations=10)
        path = self.run_dir / "events.jsonl"
        events = [json.loads(line) for line in path.read_text().splitlines()]
        for event in events:
            if event["event"] == "block":
                event |= {"first_loss": 0.008, "best_loss": 0.006, "best_iteration": 7}
                event["layer_errors"] = {"mlp.up_proj": {"nearest": 0.004, "tuned": 0.001 * (1 + event["block"])}}
        path.write_text("".join(json.dumps(e) + "\n" for e in events))
        page = self.page()
        self.assertIn("in the median 25 % lower", page)
        self.assertIn("<td>2</td><td>0.008</td><td>0.006</td><td>7</td><td>25.0 %</td>", page)
        self.assertIn("<title>mlp.up_proj: 0.004 -&gt; 0.0025</title>", page)  # the mean of the blocks
        self.assertIn("<title>block 3, mlp.up_proj: 0.004 -&gt; 0.004</title>", page)
        self.assertIn("darkest: 0.004", page)

    def test_a_run_under_way_says_so(self):
        run_directory.make(self.run_dir, finished=False)
        page = self.page()
        self.assertIn("the run has not finished", page)
        self.assertNotIn("Memory by rank", page)

    def test_rounding_to_nearest_and_one_block(self):
        run_directory.make(self.run_dir, blocks=1, groups=1, ranks=1, iterations=0)
        page = self.page()
        self.assertNotIn("Loss by block", page)
        self.assertIn("Error by kind of layer", page)

    def test_experts_share_a_row(self):
        run_directory.make(self.run_dir, blocks=2, groups=1, layers=[f"mlp.experts.{i}.up_proj" for i in range(64)])
        self.assertIn(">mlp.experts.*.up_proj</text>", self.page())

    def test_long_names_are_cut_at_the_front_and_whole_in_titles(self):
        name = "block_sparse_moe.experts.3.down_proj_of_a_long_name"
        run_directory.make(self.run_dir, blocks=2, groups=1, layers=["block_sparse_moe.experts.3.w1", name])
        page = self.page()
        self.assertIn(">experts.*.w1</text>", page)
        self.assertIn(">…_proj_of_a_long_name</text>", page)
        self.assertIn("<title>block_sparse_moe.experts.*.down_proj_of_a_long_name: ", page)

    def test_curves_that_leave_the_chart_are_named(self):
        run_directory.make(self.run_dir, blocks=2, groups=1, iterations=10)
        self.assertNotIn("they are cut", self.page())
        path = self.run_dir / "events.jsonl"
        events = [json.loads(line) for line in path.read_text().splitlines()]
        next(e for e in events if e["event"] == "block")["losses"][3:4] = [1.0]
        path.write_text("".join(json.dumps(e) + "\n" for e in events))
        self.assertIn("Above 1.5 they are cut; the highest reaches 10000.", self.page())

    def test_numbers_are_short(self):
        for value, words in ((0, "0"), (0.0123, "0.0123"), (12000, "12000"), (1e-5, "1e-5"), (1.5e-5, "1.5e-5"), (2e6, "2e6")):
            self.assertEqual(report.charts.short(value), words)

    def test_the_time_line_stands_beside_what_is_as_tall(self):
        for groups, first in ((2, '<div class="stack"><section><h2>Time line'), (16, '<div class="stack"><section><h2>Time by')):
            run_directory.make(self.run_dir, blocks=32, groups=groups, ranks=32, iterations=2)
            self.assertIn(first, self.page())

    def test_any_file_may_be_missing(self):
        for missing in ("events.jsonl", "journal", "config.yaml"):
            run_directory.make(self.run_dir)
            (self.run_dir / missing).unlink()
            page = self.page()
            self.assertIn(f"{missing} does not exist", page)
            self.assertIn("Loss by block", page)

    def test_torn_files_give_what_is_there(self):
        run_directory.make(self.run_dir, blocks=6, groups=1, iterations=5)
        whole = {name: (self.run_dir / name).read_bytes() for name in ("events.jsonl", "journal")}
        for name, data in whole.items():
            for size in range(0, len(data), max(1, len(data) // 25)):
                (self.run_dir / name).write_bytes(data[:size])
                self.page()
            (self.run_dir / name).write_bytes(data)
        (self.run_dir / "events.jsonl").write_bytes(whole["events.jsonl"][:-9])
        self.assertIn("the last line of events.jsonl is not complete", self.page())

    def test_damaged_bytes_never_end_it(self):
        run_directory.make(self.run_dir, blocks=2, groups=2, iterations=5)
        draw = random.Random(7)
        for name in ("events.jsonl", "journal", "config.yaml"):
            data = (self.run_dir / name).read_bytes()
            for _ in range(25):
                damaged = bytearray(data)
                for _ in range(draw.randrange(1, 30)):
                    damaged[draw.randrange(len(damaged))] = draw.randrange(256)
                (self.run_dir / name).write_bytes(damaged)
                self.page()
            (self.run_dir / name).write_bytes(data)

    def test_values_of_the_wrong_kind_never_end_it(self):
        run_directory.make(self.run_dir, blocks=2, groups=2, iterations=5)
        (self.run_dir / "journal").unlink()
        path = self.run_dir / "events.jsonl"
        events = [json.loads(line) for line in path.read_text().splitlines()]
        keys = sorted({(e["event"], k) for e in events for k in e})
        for kind, key in keys:
            for junk in JUNK:
                changed = [e | {key: junk} if e["event"] == kind else e for e in events]
                path.write_text("".join(json.dumps(e) + "\n" for e in changed))
                self.page()

    def test_names_are_escaped(self):
        run_directory.make(self.run_dir, blocks=1, groups=1, layers=['<img src=x onerror="a">'])
        (self.run_dir / "config.yaml").write_text("</pre><script>alert(1)</script>")
        page = self.page()
        self.assertNotIn("<img", page)
        self.assertIn("&lt;script&gt;alert(1)", page)

    def test_no_run_is_one_line(self):
        for make in (lambda: None, lambda: self.run_dir.mkdir(), lambda: (self.run_dir / "other").write_text("x")):
            make()
            code, _, err = self.call()
            self.assertEqual(code, 2)
            self.assertRegex(err, r"^error: .*; give the run directory, OUTPUT.run by default\n$")

    def test_a_place_that_cannot_be_written_is_one_line(self):
        run_directory.make(self.run_dir)
        code, _, err = self.call("--out", str(self.folder / "nowhere" / "page.html"))
        self.assertEqual(code, 2)
        self.assertRegex(err, r"^error: .*page.html cannot be written: No such file or directory\n$")

    def test_a_file_that_is_no_page_is_not_overwritten(self):
        run_directory.make(self.run_dir)
        notes = self.folder / "notes.txt"
        notes.write_text("mine")
        code, _, err = self.call("--out", str(notes))
        self.assertEqual((code, notes.read_text()), (2, "mine"))
        self.assertEqual(err, f"error: --out {notes}: exists and is not a page in HTML; choose another name\n")
        for _ in range(2):
            self.page()


def scalars(directory):
    """tag -> [(step, value)] of the event files: records of | size u64 | crc u32 | Event | crc u32 |."""
    from tensorboardX.proto.event_pb2 import Event
    found = {}
    for path in directory.iterdir():
        data, place = path.read_bytes(), 0
        while place < len(data):
            size, = struct.unpack_from("<Q", data, place)
            event = Event.FromString(data[place + 12:place + 12 + size])
            place += 16 + size
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


class TensorboardTest(ReportCase):
    def test_event_files_hold_the_curves(self):
        run_directory.make(self.run_dir, blocks=2, groups=1, iterations=5)
        for _ in range(2):  # a second call replaces, and doubles nothing
            code, _, err = self.call("--tensorboard")
            self.assertEqual((code, err), (0, ""))
        found = scalars(self.run_dir / "tensorboard")
        run = report_record.read_run(self.run_dir)
        curve = [value for _, value in sorted(found["loss/block_001"])]
        self.assertEqual(len(curve), 5)
        for value, expected in zip(curve, run.blocks[1]["losses"]):
            self.assertAlmostEqual(value, expected, delta=1e-6 * expected)
        self.assertAlmostEqual(found["perplexity/quantized"][0][1], 47.6, places=4)
        self.assertAlmostEqual(found["divergence/mean"][0][1], 0.06254, places=6)

    def test_without_a_package_it_is_one_line(self):
        run_directory.make(self.run_dir)
        hidden = {"tensorboardX": None, "torch.utils.tensorboard": None}
        with unittest.mock.patch.dict(sys.modules, hidden):
            code, _, err = self.call("--tensorboard")
        self.assertEqual(code, 3)
        self.assertEqual(err, "error: --tensorboard needs a package that is not installed; fix: pip install tensorboardX\n")
        self.assertTrue((self.run_dir / "report.html").exists())


if __name__ == "__main__":
    unittest.main()
