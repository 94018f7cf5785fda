"""Run upstream's annotation converter on some samples and time each; for the Python that can run it (shapely 1).

    python converter_driver.py CHECKOUT NUSCENES_ROOT SAMPLES

Prints one line of JSON: wall and CPU seconds of each sample, of the start (tables and maps), and the peak memory. The
converter is left as it is: only the progress bar that it draws is replaced, by one that looks at the clock.
"""

import json
import resource
import sys
import time

sys.dont_write_bytecode = True


def main():
    """Run the converter's own main under another progress bar."""
    checkout, root, samples = sys.argv[1], sys.argv[2], int(sys.argv[3])
    began = (time.perf_counter(), time.process_time())
    sys.path[:0] = [checkout, checkout + "/tools/anno_converter/nuscenes"]
    import convert

    marks = []

    def timed(indices):
        for index in list(indices)[:samples]:
            marks.append((time.perf_counter(), time.process_time()))
            yield index
        marks.append((time.perf_counter(), time.process_time()))

    convert.tqdm = timed
    sys.argv = ["convert.py", "-d", root]
    convert.main()
    times = [[after[k] - before[k] for k in (0, 1)] for before, after in zip(marks, marks[1:])]
    print(
        json.dumps(
            {
                "samples": times,
                "start": [marks[0][k] - began[k] for k in (0, 1)],
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
