"""`qlaunch verify`: the long suite on a running service, and its retrieval quality as a number."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from launcher.app.running_service import api_key, running
from launcher.cli import service_text
from launcher.cli.base import command as declare
from launcher.cli.progress import Progress
from launcher.cli.result import Problem, Result, table
from launcher.documents.smoke import QualityReport, SuiteReport
from launcher.errors import ExitCode


@declare("verify")
@click.argument("service")
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    help="Time the engine's calls may take; what does not fit is left out and named.",
)
@click.option(
    "--quality",
    is_flag=True,
    help="Also measure retrieval: recall@10 served, of the float32 reference, and the difference.",
)
@click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")
def command(service: str, seconds: float, quality: bool, quiet: bool) -> Result:
    """Check the vectors of a running SERVICE at length. Exit 7 when a check fails.

    More than 80 texts in 31 languages, code and odd characters, in several orders, alone and in
    batches, up to the model's whole context; cut vectors, token ids, base64, the model card's
    instruction, empty and over-long input. Every vector is compared with the checkpoint's own in
    float32.
    """
    plan, endpoint = running(service)
    progress = Progress(quiet=quiet)
    from launcher.service.supervisor.smoke_process import verify_request
    from launcher.verify.suite import run_suite

    asked, key = verify_request(plan, endpoint), api_key(plan)
    report = run_suite(asked, key=key, seconds=seconds, progress=progress.line)
    measured = None
    if quality:
        from launcher.verify.quality import measure_quality

        measured = measure_quality(asked, key=key, progress=progress.line)
    progress.done()
    return _result(service, endpoint, report, measured)


def _result(
    service: str, endpoint: str, report: SuiteReport, quality: QualityReport | None
) -> Result:
    data: dict[str, Any] = {"service": service, "endpoint": endpoint}
    data["verify"] = msgspec.to_builtins(report)
    lines = _lines(report)
    if quality is not None:
        data["quality"] = msgspec.to_builtins(quality)
        lines += _quality(quality)
    if report.ok:
        return Result(data=data, lines=[*lines, f"{service}: every check is ok"])
    failed = ", ".join(check.name for check in report.checks if not check.ok)
    message = f"service {service!r}: failed checks: {failed}"
    return Result(
        data=data,
        lines=lines,
        exit_code=ExitCode.VERIFY_FAILED,
        status="error",
        problems=(Problem("verify_failed", message, report.explanation),),
    )


def _lines(report: SuiteReport) -> list[str]:
    lines = service_text.checks(report)
    if report.groups:
        rows = [
            (group.group, group.texts, _cosine(group.cosine_min), _cosine(group.cosine_mean))
            for group in report.groups
        ]
        lines += ["cosine with the reference"]
        lines += [f"  {line}" for line in table(("kind", "texts", "least", "mean"), rows)]
    if report.worst_cosine is not None:
        lines.append(f"  worst: {report.worst_text}, {_cosine(report.worst_cosine)}")
    rate = report.tokens_per_s
    asked = f"asked     {report.texts} texts, {report.tokens or 'uncounted'} tokens"
    at = f" at about {rate:.0f} tokens/s" if rate else ""
    longest = f"longest {report.longest_tokens or '-'}; {report.seconds:.1f} s"
    lines.append(f"{asked}{at}, {longest}")
    return lines + [f"left out  {each}" for each in report.left_out]


def _cosine(value: float) -> str:
    return f"{value:.5f}"


def _quality(found: QualityReport) -> list[str]:
    if found.recall_at_10 is None:
        return [f"quality   not measured: {found.reason}"]
    lines = [f"quality   recall@10 {found.recall_at_10:.4f} served"]
    if found.reference_recall_at_10 is None or found.recall_difference is None:
        return [*lines, f"          no reference: {found.reason}"]
    lines[0] += f", {found.reference_recall_at_10:.4f} by the reference in float32"
    lines[0] += f", difference {found.recall_difference:+.4f}"
    assert found.cosine_mean is not None
    assert found.cosine_min is not None
    of = f"{found.queries} queries, {found.documents} documents"
    cosines = f"cosine mean {found.cosine_mean:.5f}, least {found.cosine_min:.5f}"
    return [*lines, f"          {of}; {cosines}"]
