"""Everything that hands a report to people: one file per notifier."""
