"""Runs jobs on Delta tables in one session of Spark, the stand-in for Databricks.

    spark.py < JOBS

Each line of standard input is a job: a list of tasks, or one task. A task is an object with a `kind`:

* `read`      the rows of `table`;
* `filter`    the rows of `table` for which the SQL condition `filter` holds;
* `stream`    the rows that `readStream` on `table` brings with the trigger availableNow;
* `count`     `{"count": N}`, of the rows for which `filter` holds where there is one;
* `describe`  DESCRIBE DETAIL as `detail`, DESCRIBE HISTORY as `history`, and the columns as `columns`;
* `sql`       the result of the statement `filter`.

`table` is an absolute folder or an address, `version` reads an older version, `order` is a list of columns to sort by.
With `out`, an absolute path, the rows go into that file as JSON lines, and the answer says how many. Every task has one
line as its answer on standard output, in order: the task's `kind` and `table` with `rows`, `count`, …, or else `error`.
The session starts once, which takes seconds, and ends with standard input. The form of the rows is described in
deltalake_reader.py.

The environment says where the jars of Delta are: PINSQL_TEST_JARS, a folder.
"""

import glob
import json
import os
import shutil
import sys
import tempfile
import time

os.environ["TZ"] = "UTC"
os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
time.tzset()

import pyarrow as pa
from pyspark.sql import SparkSession

from deltalake_reader import rows


def session(scratch):
    """A small local session with Delta, in UTC, whose files all lie in `scratch`."""
    builder = SparkSession.builder.appName("pinsql-tests").master("local[2]")
    settings = {
        "spark.jars": ",".join(sorted(glob.glob(os.path.join(os.environ["PINSQL_TEST_JARS"], "*.jar")))),
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.warehouse.dir": os.path.join(scratch, "warehouse"),
        "spark.local.dir": os.path.join(scratch, "local"),
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "1g",
        # A session lives for seconds: the second compiler of the JVM would cost more than it gives.
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Duser.timezone=UTC "
        f"-Dderby.system.home={scratch}",
        "spark.sql.shuffle.partitions": "2",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.databricks.delta.snapshotPartitions": "2",
    }
    for name, setting in settings.items():
        builder = builder.config(name, setting)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def frame(spark, task):
    """The rows that a task asks for, not yet read."""
    if task["kind"] == "sql":
        return spark.sql(task["filter"])
    reader = spark.read.format("delta")
    if task.get("version") is not None:
        reader = reader.option("versionAsOf", task["version"])
    found = reader.load(task["table"])
    return found.where(task["filter"]) if task.get("filter") else found


def stream(spark, task, scratch):
    """The rows that a stream over the table brings until it has caught up, as an Arrow table."""
    source = spark.readStream.format("delta").load(task["table"])
    if task.get("filter"):
        source = source.where(task["filter"])
    batches = []
    checkpoint = tempfile.mkdtemp(dir=scratch)
    writer = source.writeStream.foreachBatch(lambda batch, _: batches.append(batch.toArrow()))
    started = writer.option("checkpointLocation", checkpoint).trigger(availableNow=True).start()
    started.awaitTermination()
    return pa.concat_tables(batches) if batches else spark.createDataFrame([], source.schema).toArrow()


def describe(spark, task):
    """What Spark says about a table."""
    name = "delta.`" + task["table"].replace("`", "``") + "`"
    return {
        "detail": list(rows(spark.sql(f"DESCRIBE DETAIL {name}").toArrow()))[0],
        "history": list(rows(spark.sql(f"DESCRIBE HISTORY {name}").toArrow())),
        "columns": [[field.name, field.dataType.simpleString()] for field in frame(spark, task).schema],
    }


def table_of_rows(spark, task, scratch):
    """The rows of a task, sorted where it asks for that."""
    if task["kind"] == "stream":
        found = stream(spark, task, scratch)
    else:
        found = frame(spark, task).toArrow()
    order = task.get("order") or []
    order = [order] if isinstance(order, str) else order
    return found.sort_by([(name, "ascending") for name in order]) if order else found


def run(spark, task, scratch):
    """One task's answer."""
    if task["kind"] == "count":
        return {"count": frame(spark, task).count()}
    if task["kind"] == "describe":
        return describe(spark, task)
    if task["kind"] not in ("read", "filter", "stream", "sql"):
        return {"error": f"no task is of the kind `{task['kind']}`"}
    found = list(rows(table_of_rows(spark, task, scratch)))
    if not task.get("out"):
        return {"rows": found}
    with open(task["out"], "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
    return {"count": len(found), "out": task["out"]}


def answer(spark, task, scratch):
    """One task's answer, also when it fails."""
    try:
        # Another process wrote the table since: what Spark remembers of it is stale.
        spark.catalog.clearCache()
        found = run(spark, task, scratch)
    except Exception as error:  # whatever Spark raises is the answer
        found = {"error": f"{type(error).__name__}: {error}"}
    return {"kind": task.get("kind"), "table": task.get("table"), **found}


def main():
    scratch = tempfile.mkdtemp(prefix="pinsql-spark-")
    os.chdir(scratch)  # Spark makes folders where it stands
    try:
        spark = session(scratch)
        for line in sys.stdin:
            job = json.loads(line)
            for task in job if isinstance(job, list) else [job]:
                print(json.dumps(answer(spark, task, scratch), ensure_ascii=False), flush=True)
        spark.stop()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
