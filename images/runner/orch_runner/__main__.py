"""Run one job by the guest contract of orch, ``orch-job/2``. Host and guest meet only in these files.

    python -m orch_runner JOB.json

JOB.json, written by the host before the runner starts and never changed afterwards:

    contract          "orch-job/2"; any other value is refused
    run, worker       identifiers, only for messages
    plan              digest of the run's plan, written into every shard
    predictor         "predictor.py:Predictor": file inside paths.stack, and the class in it
    model             {"name", "architecture", "task", "settings": {...}, "config": file in the sources or null,
                       "weights": {key: {"file", "sha256" or null, "package" or null}}}
                      architecture: the stack's own name of the network, equal to name unless the model is described
                      by a model.yaml. A file lies under paths.weights, or inside the installed package
    native            {"box_order": "xyxy" | "yxyx", "class_base": int, "class_map": [category id, ...]}
                      the predictor's class c is category class_map[c - class_base]
    device            "cpu" or "cuda"; the host selects a GPU by making it the only visible one. With "cuda" the worker
                      first runs a kernel of the stack's own framework, and fails (category device) if it cannot
    exif              "apply" or "ignore"
    score_threshold   instances below it are dropped; null keeps all
    max_detections    the most instances kept per image, best first; null keeps all
    max_pixels        images with more pixels are refused (guards against decompression bombs)
    batch_size        images per predict(), limited to the predictor's max_batch
    threads           compute threads the predictor may use
    readers           number of decoding threads, and of encoding threads
    attributes        number of attribute columns, 0 for none
    image_scores      true if the task has an image-level score
    masks             false if instances of the task have no masks: one that comes with a mask is a failure
    pixels            "probability" if the predictor gives one per pixel instead of instances, else null
    alive_timeout     seconds after the last change of paths.queue/alive until the runner exits
    part_every        seconds between saves of the finished part of the current shard
    max_file_bytes    larger image files are refused
    decode_timeout    seconds for decoding one image; beyond, the image fails
    paths             {"data", "weights", "out", "cache", "queue", "stack",
                       "sources": {name: folder of upstream code}}

The queue folder, written by the host (each file under another name, then renamed), read-only for the runner:

    NNNNN.json        a shard to predict: {"shard": n, "images": [{"index", "file", "path", "size", "mtime_ns"}, ...],
                      "skip": {index: reason}, "careful": bool, "alone": [index, ...]}
                      path is relative to paths.data; file is the image's name in the predictions; size and
                      mtime_ns are those of the file when it was listed, or null: a file in another state fails.
                      skip: fail these. careful: announce each batch before it is decoded and predicted, with
                      no other work in progress, so that the host knows what killed a worker.
                      alone: predict each of these in a batch of its own. Removed when the shard is done
    NNNNN.K.json      the same shard again, after its result was refused for the K-th time
    end               no more shards: finish and exit 0
    alive             a counter, changed by the host every few seconds; its time says nothing: clocks differ

The out folder, written by the runner and by no other worker. The host copies what it takes from there, checks all of it
by the rules of the predictions, and deletes it; it may put the part of a shard there before the shard is queued:

    NNNNN.npz         a finished shard: the arrays of orch-predictions/2 with offsets from 0 and
                      meta = {"format": "orch-shard/2", "shard": n, "plan": digest, "images": count}.
                      image_sha256 is zero for files that were not read. masks and mask_offsets are absent where
                      the predictor gave no masks; masks for some images only is a failure of category output.
                      Written under another name, fsynced, renamed.
    masks/NNNNN/IIIIIIII.png
                      pixels "probability": the probability per pixel of image I of shard N as 8-bit grey,
                      round(255 p); the image's one instance is the pixels above the setting mask_threshold
                      (0.5). Written before the shard
    canvas/NNNNN/IIIIIIII.npy
                      the same with the setting keep_canvas: the network's own mask, float32, (rows, columns) that
                      the image has on its canvas. Written before the shard
    NNNNN.part.npz    the first images of an unfinished shard: written every part_every seconds and when the
                      runner is stopped. The next runner of the same plan continues from it, in whole batches.
                      Removed when the shard is done

stdout carries one JSON object a line, each with "event", "seq" (1, 2, …) and "time" (seconds since the epoch):

    hello             contract, runner, python, pid
    loading           model
    ready             device, batch_size, seconds, versions
    shard_started     shard, images, reused (taken from a .part.npz)
    batch             shard, indices                     (careful shards only)
    image_failed      shard, index, file, error
    progress          shard, done, total                 (at most a few per second)
    notice            message                            (for example: batch size halved)
    shard_done        shard, images, failed, instances, seconds
    heartbeat         rss_mb                             (every two seconds, from a separate thread)
    failure           category, message, hint or null    (followed only by bye); categories: contract,
                      weights, load, memory (too little of it to load the model), device, output, bug, or the
                      category of the predictor's Fatal
    bye               reason                             (always the last event)

stderr is a log; everything that the predictor prints goes there too.

Exit status: 0 all shards done; 2 job refused; 3 model could not be loaded; 4 device unusable; 5 output could not
be written; 70 a bug; 143 stopped by SIGTERM (batch finished, part written) or because the host is gone.
"""

import os
import sys

from orch_runner.worker import main

if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    # All results are on disk. A library's shutdown can hang, or crash and change the status.
    os._exit(status)
