"""Pages, drawings, tables, JUnit and job summaries."""

from typing import TYPE_CHECKING

from orchestrator._lazy import lazy_exports

if TYPE_CHECKING:
    from orchestrator.reports.draw import draw_source, make_contact_sheet
    from orchestrator.reports.html.gallery import PageLimits
    from orchestrator.reports.html.write import ReportOptions, write_mask_report, write_report
    from orchestrator.reports.job_summary import append_summary
    from orchestrator.reports.junit import write_junit
    from orchestrator.reports.mask_tables import make_mask_caption, make_mask_document, make_mask_tables
    from orchestrator.reports.tables import (
        Cell,
        Table,
        format_csv,
        format_json,
        format_latex,
        format_markdown,
        make_caption,
        make_document,
        make_tables,
        transpose,
    )
    from orchestrator.reports.view.server import Viewer, ViewServer
    from orchestrator.reports.view.snapshot import ViewOptions
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "draw": "draw_source make_contact_sheet",
            "html.gallery": "PageLimits",
            "html.write": "ReportOptions write_mask_report write_report",
            "job_summary": "append_summary",
            "junit": "write_junit",
            "mask_tables": "make_mask_caption make_mask_document make_mask_tables",
            "tables": "Cell Table format_csv format_json format_latex format_markdown make_caption "
            "make_document make_tables transpose",
            "view.server": "ViewServer Viewer",
            "view.snapshot": "ViewOptions",
        },
    )
