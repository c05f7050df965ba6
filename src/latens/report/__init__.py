"""Reports: from runs to pictures and pages of HTML."""
