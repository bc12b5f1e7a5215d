"""The guest contract of orch, version ``orch-job/1``. Host and guest meet only in the files described here.

    python -m orch_runner JOB.json

JOB.json, written by the host before the runner starts, never changed afterwards:

    contract          "orch-job/1"; any other value is refused on the first line
    run, worker       identifiers, for messages only
    plan              digest of the run's plan, written into every shard
    predictor         "predictor.py:Predictor": file inside paths.stack, and the class in it
    model             {"name", "task", "settings": {...}, "config": file in the sources or null,
                       "weights": {key: {"file", "sha256" or null, "package" or null}}}
                      a file lies under paths.weights, or inside the installed package named
    native            {"box_order": "xyxy" | "yxyx", "class_base": int, "class_map": [category id, ...]}
                      the predictor's class c is category class_map[c - class_base]
    device            "cpu" or "cuda"; which GPU is the host's choice, by showing one alone. With "cuda" a kernel of the
                      stack's own framework runs before the model is loaded, or the worker fails (category device)
    exif              "apply" or "ignore"
    score_threshold   instances below it are dropped; null keeps all
    max_detections    at most so many instances per image, the best first; null keeps all
    max_pixels        images with more pixels are refused (guards against decompression bombs)
    batch_size        images per predict(); never more than the predictor's max_batch
    threads           compute threads the predictor may use
    readers           decoding and encoding threads, each
    attributes        number of attribute columns, 0 for none
    image_scores      true where the task has an image-level score
    alive_timeout     seconds; the runner leaves when paths.queue/alive was not touched for so long
    part_every        seconds of work after which the shard at hand is kept as far as it is done
    paths             {"data", "weights", "out", "cache", "queue", "stack",
                       "sources": {name: folder of upstream code}}

The queue folder, written by the host (each file under another name, then renamed), read-only to the runner:

    NNNNN.json        a shard to predict: {"shard": n, "images": [{"index", "file", "path"}, ...],
                      "skip": {index: reason}, "careful": bool, "alone": [index, ...]}
                      path is relative to paths.data; file is what the predictions call the image.
                      skip: give up on these. careful: announce each batch before it is decoded and
                      predicted, with nothing else under way, so that the host knows what a worker died of.
                      alone: predict these in a batch of their own. Removed when the shard is done
    end               nothing more will come: finish and exit 0
    alive             touched by the host every few seconds

The out folder, written by the runner:

    NNNNN.npz         a finished shard: the arrays of orch-predictions/1 with offsets from 0 and
                      meta = {"format": "orch-shard/1", "shard": n, "plan": digest, "images": count}.
                      Written under another name, fsynced, renamed.
    masks/NNNNN/IIIIIIII.png
                      task manipulation-localization: the probability per pixel of image I of shard N as 8-bit grey,
                      round(255 p); the image's one instance is what is above the setting mask_threshold (0.5).
                      There before the shard is.
    NNNNN.part.npz    the first images of a shard that is not done: written every part_every seconds, and when
                      the runner is stopped; the next runner goes on from it, in whole batches, unless it is of
                      another plan. Removed when the shard is done

stdout carries one JSON object a line, each with "event", "seq" (1, 2, …) and "time" (seconds since the epoch):

    hello             contract, runner, python, pid
    loading           model
    ready             device, batch_size, seconds, versions
    shard_started     shard, images, reused (taken from a .part.npz)
    batch             shard, indices                     (careful shards only)
    image_failed      shard, index, file, error
    progress          shard, done, total                 (a few per second at most)
    notice            message                            (batch halved and the like)
    shard_done        shard, images, failed, instances, seconds
    heartbeat         rss_mb                             (every other second, from a thread of its own)
    failure           category, message, hint or null    (the last event but bye); categories: contract,
                      weights, load, device, output, bug, or one that the predictor's Fatal names
    bye               reason                             (always the last event)

stderr is a log for people. Anything the predictor prints goes there too.

Exit status: 0 all shards done; 2 job refused; 3 model could not be loaded; 4 device unusable; 5 output could not
be written; 70 a bug; 143 stopped by SIGTERM (batch finished, part written) or because the host went away.
"""

import os
import sys

from orch_runner.worker import main

if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    # All that matters is on disk. A library's own shutdown can hang, or crash and change the status.
    os._exit(status)
