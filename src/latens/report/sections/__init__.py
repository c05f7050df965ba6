"""The sections of a report: what each draws. `latens.report.contents` has their order."""
