"""`python -m bench scale`: batch work with one and two workers, training with one and two ranks.

Each engine translates the same lines by the same job, its workers having one thread each. They have
started, and loaded the model, before anything is timed; how long that takes are figures of their
own. Ranks are processes of this machine, with one thread each, and exchange gradients through its
memory; for more machines there is a model of a step's time (see scaling.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

import pyx_transformer as pt
from bench import footprint, ranks, scaling
from bench.decode import data_folder
from bench.rows import Bar, Benchmark, Figure, Missing, Row
from bench.timing import Contestant
from bench.worker import Worker

TRANSLATE = "translate, en-ja"
LINES = {"multiprocessing": 4000, "Ray": 20_000, "Dask": 20_000, "Spark": 4000}
BATCH = 2000  # lines that a worker is given at a time
ENGINES = {"multiprocessing": None, "Ray": "ray", "Dask": "distributed", "Spark": "pyspark"}


def rows():
    for engine in ENGINES:
        yield Row(
            f"{TRANSLATE}, {engine}",
            {"workers": 2},
            partial(contestants, engine, LINES[engine]),
            made=(LINES[engine], "lines"),
        )
    yield ranks.row()
    yield Row(
        f"{TRANSLATE}, few lines, multiprocessing",
        {"workers": 2},
        partial(contestants, "multiprocessing", 1000),
        made=(1000, "lines"),
        quick=True,
    )


def contestants(engine, count, peers):
    """Two workers, one, and the plain loop of one thread."""
    require(engine)
    for name, kind, workers in (
        ("ours", engine, 2),
        ("one worker", engine, 1),
        ("loop", "loop", 1),
    ):
        yield Contestant(name, Worker("scale", kind, workers, count))


def require(engine):
    package = ENGINES[engine]
    if package is not None and importlib.util.find_spec(package) is None:
        raise Missing(f"{package} is not installed")


def lines(count):
    texts = (data_folder("tanaka-en-ja") / "train.en").read_text("utf-8").splitlines()
    return texts[:count]


# In the process of a contestant.


@contextlib.contextmanager
def work(engine, workers, count):
    """What translates the lines and returns a digest of the translations."""
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started here
    os.environ["PYSPARK_PYTHON"] = sys.executable
    pt.set_num_threads(1)
    texts = lines(count)
    with STARTED[engine](workers) as translate:
        translate(texts[: BATCH * workers])  # every worker loads the model
        yield lambda: digest(translate(texts))


def digest(translations):
    return hashlib.sha256("\n".join(translations).encode()).hexdigest()


def job():
    from pyx_transformer.batch import Translate

    return Translate("en-ja", "text", "translation")


def batches(texts):
    return [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]


@contextlib.contextmanager
def loop(workers):
    translate = job()
    yield lambda texts: [one for batch in batches(texts) for one in translate(batch)]


@contextlib.contextmanager
def multiprocessing(workers):
    from multiprocessing import get_context

    with get_context("spawn").Pool(workers, pt.set_num_threads, (1,)) as pool:
        translate = job()
        yield lambda texts: [
            one for found in pool.map(translate, batches(texts), 1) for one in found
        ]


@contextlib.contextmanager
def by_ray(workers):
    import ray

    with contextlib.redirect_stdout(sys.stderr):
        ray.init(
            num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
        )
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel("ERROR")
    translate = job()

    def call(texts):
        rows = ray.data.from_items(
            [{"number": i, "text": text} for i, text in enumerate(texts)],
            override_num_blocks=len(batches(texts)),
        )
        found = rows.map_batches(translate, batch_size=BATCH).to_pandas()
        return found.sort_values("number")["translation"].tolist()

    yield call
    ray.shutdown()


@contextlib.contextmanager
def by_dask(workers):
    import dask.dataframe as dd
    import pandas as pd
    from dask.distributed import Client, LocalCluster

    options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster):
        translate = job()

        def call(texts):
            parts = len(batches(texts))
            frame = dd.from_pandas(pd.DataFrame({"text": texts}), npartitions=parts)
            found = frame.map_partitions(translate, meta=translate.meta(frame))
            return found.compute()["translation"].tolist()

        yield call


@contextlib.contextmanager
def by_spark(workers):
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master(f"local[{workers}]")
    builder = builder.config("spark.ui.enabled", "false")
    builder = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", BATCH)
    with contextlib.redirect_stdout(sys.stderr):
        spark = builder.getOrCreate()
    translate = job()

    def call(texts):
        rows = spark.createDataFrame(list(enumerate(texts)), "number int, text string")
        rows = rows.repartitionByRange(len(batches(texts)), "number")
        found = rows.mapInPandas(translate.partitions, translate.schema(rows)).collect()
        return [row.translation for row in sorted(found, key=lambda row: row.number)]

    yield call
    spark.stop()


STARTED = {
    "loop": loop,
    "multiprocessing": multiprocessing,
    "Ray": by_ray,
    "Dask": by_dask,
    "Spark": by_spark,
}


# Figures.


def start_up(engine, quick):
    """Seconds until two workers have translated a few lines, the model loaded in each."""
    try:
        require(engine)
    except Missing:
        return np.nan
    begin = time.perf_counter()
    Worker("scale", engine, 2, 2 * BATCH)
    return time.perf_counter() - begin


LAYERS, WIDTH, VOCABULARY = 6, 512, 32_000  # 373 MB as float32
HOLD = """
import sys, numpy as np, pyx_transformer as pt
from pyx_transformer.checkpoints.digests import digest_of
from pyx_transformer.checkpoints.mapped import mapped_weights
from pathlib import Path
with mapped_weights(digest_of(Path(sys.argv[1]))):
    model = pt.load(sys.argv[1])
model.generate(np.full((4, 12), 5), max_length=12)
print("loaded", flush=True)
for _ in sys.stdin:
    rollup = [line.split() for line in open("/proc/self/smaps_rollup")]
    print(next(int(line[1]) for line in rollup if line[0] == "Pss:"), flush=True)
"""


def memory_of_two(dtype, quick):
    """Memory of two processes that have mapped the same model, by that of one."""
    import tempfile

    config = pt.TransformerConfig(
        VOCABULARY,
        VOCABULARY,
        d_model=WIDTH,
        num_heads=8,
        d_ff=4 * WIDTH,
        num_encoder_layers=1 if quick else LAYERS,
        num_decoder_layers=1 if quick else LAYERS,
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        pt.Transformer(config, rng=0).save(Path(folder), dtype=dtype)
        first = stack.enter_context(holder(folder))
        alone = first()
        second = stack.enter_context(holder(folder))
        return (first() + second()) / alone


@contextlib.contextmanager
def holder(folder):
    """A process that has the model, and what asks for its share of memory in KB."""
    command = [sys.executable, "-c", HOLD, folder]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=footprint.PACKAGE.parent,
    ) as process:
        assert process.stdout.readline() == "loaded\n"

        def ask():
            process.stdin.write("\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield ask
        process.stdin.close()


def model(options):
    """That of scaling.py, drawn beside the results."""
    picture = None if options.output is None else options.output.with_suffix(".svg")
    return scaling.report(ranks.times(1), options.bandwidth, options.latency, picture)


BENCHMARK = Benchmark(
    "scale",
    rows=tuple(rows()),
    bars=(
        *(
            Bar(
                f"{engine}: two workers beside one",
                "x",
                1.7,
                lambda row, engine=engine: row.group == f"{TRANSLATE}, {engine}",
                lambda result: result.ratio("one worker"),
            )
            for engine in ("Ray", "Dask")
        ),
        ranks.BAR,
    ),
    figures=(
        *(
            Figure(f"start-up of two workers: {engine}", "s", 60, partial(start_up, engine))
            for engine in ENGINES
        ),
        *(
            Figure(
                f"memory of two processes by one, {dtype}", "x", 1.3, partial(memory_of_two, dtype)
            )
            for dtype in ("float32", "int8")
        ),
        ranks.SHARE,
    ),
    model=model,
)
