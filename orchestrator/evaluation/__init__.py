"""Figures and verdicts: predictions against annotations, runs against runs, runs against a baseline."""

from typing import TYPE_CHECKING

from orchestrator._lazy import lazy_exports

if TYPE_CHECKING:
    from orchestrator.evaluation.agreement import (
        LEVELS,
        ToleranceAgreement,
        Tolerances,
        compare_within_tolerances,
        measure_agreement,
        select_rows,
    )
    from orchestrator.evaluation.coco.detections import check_predictions, choose_iou
    from orchestrator.evaluation.coco.evaluate import CountLevel, evaluate
    from orchestrator.evaluation.coco.ground_truth import Iou, Truth
    from orchestrator.evaluation.coco.results import (
        FIGURES,
        AttributeMetrics,
        Evaluation,
        FederatedMetrics,
        WeightedAverages,
        choose_figures,
    )
    from orchestrator.evaluation.compare.bootstrap import METHOD, Interval
    from orchestrator.evaluation.compare.compare import (
        CompareOptions,
        Comparison,
        JudgedRun,
        MatchedRun,
        compare_opened,
        compare_runs,
        make_comparable,
        match_opened,
    )
    from orchestrator.evaluation.compare.fairness import Cut, restrict
    from orchestrator.evaluation.compare.localization import (
        ComparedMasks,
        MaskComparison,
        MaskOptions,
        compare_masks,
        compare_opened_masks,
        has_recorded_masks,
    )
    from orchestrator.evaluation.equivalence_record import write_record
    from orchestrator.evaluation.gate.baseline import (
        Baselines,
        compare_categories,
        compare_figures,
        evaluate_with_baseline,
        note_unknown_images,
        to_baseline,
        write_baseline,
    )
    from orchestrator.evaluation.gate.gate import Gate, GateResult, check_gate_options
    from orchestrator.evaluation.gate.rules import FailedImages, FigureChange, format_verdicts, judge_rules, parse_rules
    from orchestrator.evaluation.localization.evaluate import evaluate_masks, read_levels
    from orchestrator.evaluation.localization.ground_truth import TrueMask, read_recorded_masks
    from orchestrator.evaluation.localization.mask_file import read_true_mask
    from orchestrator.evaluation.localization.metrics import Localization, list_mask_figures
    from orchestrator.evaluation.protocols import DEFAULT, get_coco_protocol, get_mask_protocol, is_mask_protocol
    from orchestrator.evaluation.runs import OpenedRun, find_predictions, open_runs
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "agreement": "LEVELS ToleranceAgreement Tolerances compare_within_tolerances measure_agreement select_rows",
            "coco.detections": "check_predictions choose_iou",
            "coco.evaluate": "CountLevel evaluate",
            "coco.ground_truth": "Iou Truth",
            "coco.results": "AttributeMetrics Evaluation FIGURES FederatedMetrics WeightedAverages choose_figures",
            "compare.bootstrap": "METHOD Interval",
            "compare.compare": "CompareOptions Comparison JudgedRun MatchedRun compare_opened compare_runs "
            "make_comparable match_opened",
            "compare.fairness": "Cut restrict",
            "compare.localization": "ComparedMasks MaskComparison MaskOptions compare_masks compare_opened_masks "
            "has_recorded_masks",
            "equivalence_record": "write_record",
            "gate.baseline": "Baselines compare_categories compare_figures evaluate_with_baseline note_unknown_images "
            "to_baseline write_baseline",
            "gate.gate": "Gate GateResult check_gate_options",
            "gate.rules": "FailedImages FigureChange format_verdicts judge_rules parse_rules",
            "localization.evaluate": "evaluate_masks read_levels",
            "localization.ground_truth": "TrueMask read_recorded_masks",
            "localization.mask_file": "read_true_mask",
            "localization.metrics": "Localization list_mask_figures",
            "protocols": "DEFAULT get_coco_protocol get_mask_protocol is_mask_protocol",
            "runs": "OpenedRun find_predictions open_runs",
        },
    )
