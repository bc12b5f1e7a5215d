"""The tasks of models as one table: what a predictor gives, what a run then has, and how it is spoken of and judged."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.system import unknown_name

INSTANCES, DETECTION, MANIPULATION = "instance-segmentation", "object-detection", "manipulation-localization"
PROBABILITY = "probability"

ANNOTATIONS_OPTION, MASKS_OPTION = "--annotations COCO.json", "--masks FOLDER"


@dataclass(frozen=True)
class Task:
    """One row of the table.

    What is drawn, exported and compared by default follows from the arrays that a run has.
    """

    name: str
    summary: str
    has_masks: bool
    """Whether instances may have masks. Without them `masks` and `mask_offsets` are refused everywhere."""
    pixels: str | None = None
    """What the predictor gives for each pixel (PROBABILITY), of which the runner makes a mask picture and the
    instance; None: it gives instances, and there are no pictures."""
    has_image_scores: bool = False
    """Whether there is the array `image_scores`; NaN for images to which the model gives none."""
    evaluated_with: tuple[str, ...] = (ANNOTATIONS_OPTION,)
    """The options of `orch eval` that give it a truth, the usual one first."""
    words: tuple[str, str] | None = None
    """What images with and without the category are called; None: by the category's name in the taxonomy."""

    @property
    def has_pictures(self) -> bool:
        """Whether a run has a mask picture of each predicted image."""
        return self.pixels is not None

    @property
    def positives_key(self) -> str:
        """Return the key in JSON of the number of images with the category."""
        return "with_category" if self.words is None else self.words[0]

    def describe_images(self, category: str) -> tuple[str, str]:
        """Return what images with and without a category are called."""
        return self.words or (f"with {category}", f"without {category}")


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(INSTANCES, "boxes with masks; a model may also give boxes alone", has_masks=True),
        Task(DETECTION, "boxes without masks", has_masks=False),
        Task(
            "binary-segmentation",
            "the probability per pixel of one category, named in the taxonomy",
            has_masks=True,
            pixels=PROBABILITY,
            has_image_scores=True,
            evaluated_with=(MASKS_OPTION, ANNOTATIONS_OPTION),
        ),
        Task(
            MANIPULATION,
            "the probability per pixel that it was manipulated",
            has_masks=True,
            pixels=PROBABILITY,
            has_image_scores=True,
            evaluated_with=(MASKS_OPTION, ANNOTATIONS_OPTION),
            words=("manipulated", "genuine"),
        ),
    )
}


def get_task(name: str) -> Task:
    """Return the task of that name. Raises UsageError."""
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]


def task_of(meta: object) -> Task:
    """Return the task that the meta of predictions names; that of instances where it names none that is known."""
    name = meta.get("task") if isinstance(meta, dict) else None
    return TASKS.get(str(name), TASKS[INSTANCES])


def name_tasks_with_pictures() -> str:
    """Return the names of the tasks whose runs have mask pictures, as text."""
    return ", ".join(task.name for task in TASKS.values() if task.has_pictures)
