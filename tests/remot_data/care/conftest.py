"""What the tests of the doctor's checks share."""

from __future__ import annotations

from collections.abc import Iterator

from remot_data.care.findings import Finding


def one(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


def by_name(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}
