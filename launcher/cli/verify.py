"""`qlaunch verify`: the long suite on a running service, and its retrieval quality as a number."""

from __future__ import annotations

import click
import msgspec

from launcher.app.running_service import api_key, engines, running
from launcher.cli import screen, service_text
from launcher.cli.base import all_option, wants_reasons
from launcher.cli.base import command as declare
from launcher.cli.finite import FiniteRange
from launcher.cli.progress import Progress
from launcher.cli.result import Result, table
from launcher.documents.plan import Plan
from launcher.documents.smoke import QualityReport, SuiteReport, VerifyRequest
from launcher.units import counted


@declare("verify")
@click.argument("service")
@click.option(
    "--seconds",
    type=FiniteRange(min=1),
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
@all_option("Also the words of checks that are ok, and all that was left out.")
def command(service: str, seconds: float, quality: bool, quiet: bool, everything: bool) -> Result:
    """Check the vectors of a running SERVICE at length. Exit 7 when a check fails.

    More than 80 texts in 31 languages, code and odd characters, in several orders, alone and in
    batches, up to the model's whole context; cut vectors, token ids, base64, the model card's
    instruction, empty and over-long input. Every vector is compared with the checkpoint's own in
    float32. Of a service with replicas the first is asked; the others were held to its vectors.
    """
    plan, endpoint = engines(service)[0]
    progress = Progress(quiet=quiet)
    from launcher.service.supervisor.smoke_process import verify_request
    from launcher.verify.suite import run_suite

    asked, key = verify_request(plan, endpoint), api_key(plan)
    report = run_suite(asked, key=key, seconds=seconds, progress=progress.line)
    report = _with_gateway(report, plan, asked, key)
    measured = None
    if quality:
        from launcher.verify.quality import measure_quality

        measured = measure_quality(asked, key=key, progress=progress.line)
    progress.done()
    return _result(service, endpoint, report, measured, everything=everything or wants_reasons())


def _with_gateway(
    report: SuiteReport, plan: Plan, asked: VerifyRequest, key: str | None
) -> SuiteReport:
    """The report with what clients get through the gateway, where one stands before the engine."""
    if plan.cache is None:  # nor has a replica one: its set's gateway was proved by it
        return report
    from launcher.verify.through_gateway import check_gateway

    check = check_gateway(asked, running(plan.service)[1], key)
    return msgspec.structs.replace(
        report, ok=report.ok and check.ok, checks=(*report.checks, check)
    )


def _result(
    service: str,
    endpoint: str,
    report: SuiteReport,
    quality: QualityReport | None,
    *,
    everything: bool,
) -> Result:
    data: dict[str, object] = {"service": service, "endpoint": endpoint, "verify": report}
    if quality is not None:
        data["quality"] = quality
    lines = _fitting(report, quality, everything=everything)
    return service_text.judged(service, data, report, lines, "verify_failed")


_BELOW = 2
"""Lines of the screen for the verdict."""


def _fitting(report: SuiteReport, quality: QualityReport | None, *, everything: bool) -> list[str]:
    """The report on one screen: what failed in any case, the figures of quality at the end."""
    measured = _quality(quality) if quality is not None else []
    lines = [*_lines(report), *measured]
    if not everything and not screen.fits(lines, _BELOW):
        lines = [*_lines(report, brief=True), *measured]
    return screen.shorten(lines, everything=everything, keep=len(measured), below=_BELOW)


def _lines(report: SuiteReport, *, brief: bool = False) -> list[str]:
    lines = service_text.checks(report, brief=brief)
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
    asked = f"asked     {counted(report.texts, 'text')}, {report.tokens or 'uncounted'} tokens"
    at = f" at about {rate:.0f} tokens/s" if rate else ""
    longest = f"longest {report.longest_tokens or '-'}; {report.seconds:.1f} s"
    lines.append(f"{asked}{at}, {longest}")
    left = [f"left out  {each}" for each in report.left_out]
    if brief and len(left) > 2:
        left = [left[0], f"left out  {len(left) - 1} other parts: --all names them"]
    return lines + left


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
