"""Reports: one self-contained page, Markdown, CSV, of a comparison or of one life of a service.

All functions are pure: documents in, text out. What draws and what fills in templates is imported
when a page is made, and not before.
"""

from __future__ import annotations

from launcher.report.comparison import comparison_csv, comparison_html, comparison_markdown
from launcher.report.run import document, run_csv, run_html, run_markdown

__all__ = [
    "comparison_csv",
    "comparison_html",
    "comparison_markdown",
    "document",
    "run_csv",
    "run_html",
    "run_markdown",
]
