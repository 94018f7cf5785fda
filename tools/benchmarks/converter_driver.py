"""Run upstream's annotation converter on some samples and time it; for the Python that can run it (shapely 1).

    python converter_driver.py CHECKOUT NUSCENES_ROOT SAMPLES

Prints one line of JSON: wall and CPU seconds of the start (tables and maps) and of the samples. The converter is left
as it is: only the progress bar that it draws is replaced, by one that looks at the clock.
"""

import json
import sys
import time


def main():
    """Run the converter's own main under another progress bar."""
    checkout, root, samples = sys.argv[1], sys.argv[2], int(sys.argv[3])
    marks = [(time.perf_counter(), time.process_time())]
    sys.path[:0] = [checkout, checkout + "/tools/anno_converter/nuscenes"]
    import convert

    def timed(indices):
        marks.append((time.perf_counter(), time.process_time()))
        yield from list(indices)[:samples]
        marks.append((time.perf_counter(), time.process_time()))

    convert.tqdm = timed
    sys.argv = ["convert.py", "-d", root]
    convert.main()
    start, rest = ([after[k] - before[k] for k in (0, 1)] for before, after in zip(marks, marks[1:]))
    print(json.dumps({"start": start, "samples": rest}))


if __name__ == "__main__":
    main()
